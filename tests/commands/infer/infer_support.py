"""`spd-infer` in a process of its own, with a runtime for which the depth of a point is the width of its image."""

import sys
import textwrap


def command(*arguments: str) -> list[str]:
    """A process of its own, with a stub of the runtime."""
    code = """
        import sys, numpy, spd.runtime
        from spd.commands.infer.cli import main
        class Model:
            manifest = None
            def __enter__(self):
                return self
            def __exit__(self, *_):
                pass
            def encode(self, image):
                scene = Model()
                scene.width = image.width
                return scene
            def wait(self):
                pass
            def depth(self, points, outside):
                return numpy.full(len(points), self.width, numpy.float32)
        spd.runtime.load = lambda *args, **options: Model()
        main(prog_name="spd-infer")
    """
    return [sys.executable, "-c", textwrap.dedent(code).strip(), *arguments]
