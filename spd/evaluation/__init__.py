"""Evaluation of depth at points: the protocol (paper 8), its tables and its pictures. `spd-eval` is the command."""

from spd.evaluation.protocol import Evaluation, Predictor, Settings, evaluate

__all__ = ["Evaluation", "Predictor", "Settings", "evaluate"]
