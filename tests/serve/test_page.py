"""The page before the real service, in a real browser."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from page_support import Visitor, chromium, metres
from PIL import ExifTags, Image
from serve_support import listening, png, wait_until

from spd.preprocess import Letterbox
from spd.runtime import Model, Scene
from spd.serve.cli import PAGE
from spd.serve.service import Service

SIZE = (200, 120)
"""Width and height of the room."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def served(load: Callable[..., Model]) -> Iterator[tuple[str, Service]]:
    with listening(load, page=PAGE, max_upload=300_000) as served:
        yield served


@pytest.fixture
def service(served: tuple[str, Service]) -> Service:
    return served[1]


@pytest.fixture
def visit(browser: Any, served: tuple[str, Service]) -> Iterator[Callable[..., Visitor]]:
    """Opens the page; in the end nothing was asked elsewhere, and the browser had nothing to complain of."""
    visitors: list[Visitor] = []

    def visit(**options: Any) -> Visitor:
        visitors.append(Visitor(browser, served[0], **options))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        visitor.close()
        assert {host for host in visitor.hosts if host} == {served[0].removeprefix("http://")}
        assert not visitor.errors


@pytest.fixture
def visitor(visit: Callable[..., Visitor]) -> Visitor:
    return visit()


@pytest.fixture
def shown(visitor: Visitor, room: NDArray[np.uint8]) -> Visitor:
    """The room on the page."""
    visitor.show(png(room))
    return visitor


@pytest.fixture(scope="module")
def scene(model: Model, room: NDArray[np.uint8]) -> Scene:
    return model.encode(room)


def in_space(u: float, v: float, depth: float, focal: float) -> NDArray[np.float64]:
    return np.array([(u - SIZE[0] / 2) / focal * depth, (v - SIZE[1] / 2) / focal * depth, depth])


def test_a_click_gives_the_depth_of_its_pixel(shown: Visitor, scene: Scene) -> None:
    for u, v in ((30.2, 40.9), (199.9, 60.1), (70.1, 119.9)):
        shown.click(u, v, SIZE)
    pixels = np.array([(30.5, 40.5), (199.5, 60.5), (70.5, 119.5)])
    rows = shown.rows()
    np.testing.assert_array_equal(rows[:, :2], pixels)
    expected = [scene.depth([pixel])[0] for pixel in pixels]
    np.testing.assert_array_equal(np.float32(rows[:, 2]), expected)
    assert metres(shown.text("#value")) == pytest.approx(expected[2], abs=0.000501)
    assert shown.text("#detail").startswith("deep at 70.5, 119.5 · ")
    assert shown.text("#detail").endswith(" µs")
    assert shown.page.locator("#labels span").all_inner_texts() == shown.page.locator("#marks .what").all_inner_texts()
    assert "200 × 120, encoded in " in shown.text("#status")


def test_hovering_reads_the_coarse_grid(shown: Visitor, scene: Scene) -> None:
    columns = math.floor(math.sqrt(64 * 48 * SIZE[0] / SIZE[1]))
    rows = round(columns * SIZE[1] / SIZE[0])
    u, v = ((np.arange(count) + 0.5) * side / count for count, side in ((columns, SIZE[0]), (rows, SIZE[1])))
    grid = scene.depth(np.stack(np.meshgrid(u, v), -1).reshape(-1, 2)).reshape(rows, columns)
    asked: list[str] = []
    shown.page.on("request", lambda request: asked.append(request.url))
    for x, y in ((100.5, 60.5), (0.5, 40.5), (150.5, 119.5)):
        shown.page.mouse.move(*shown.place(x, y, SIZE))
        along_u = [np.interp(x, u, row) for row in grid]
        assert shown.text("#hover") == f"~{np.interp(y, v, along_u):.2f} m"
    assert not asked
    shown.page.mouse.move(1, 1)
    assert shown.page.is_hidden("#hover")


def test_a_line_measures_in_space(shown: Visitor, scene: Scene) -> None:
    shown.drag((20.5, 100.5), (180.5, 30.5), SIZE)
    pixels = np.array([(20.5, 100.5), (180.5, 30.5)])
    ends = np.column_stack([pixels, scene.depth(pixels)])
    np.testing.assert_array_equal(np.float32(shown.rows()), np.float32(ends))
    assumed = 100 / math.tan(math.radians(65 / 2))
    shown.page.click("#lens summary")
    for focal in (assumed, 150.0):
        expected = np.linalg.norm(in_space(*ends[0], focal) - in_space(*ends[1], focal))
        assert metres(shown.text("#value")) == pytest.approx(expected, abs=0.000501)
        assert shown.text("#lens-short") == f"{focal:.0f} px, {'assumed' if focal == assumed else 'as given here'}"
        shown.page.fill("#focal", "150")
    assert float(shown.page.input_value("#view-angle")) == pytest.approx(
        math.degrees(2 * math.atan(100 / 150)), abs=0.06
    )
    shown.page.fill("#view-angle", "90")
    assert float(shown.page.input_value("#focal")) == pytest.approx(100, abs=0.06)


def test_the_lens_of_the_photo(visitor: Visitor, room: NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 28
    file = io.BytesIO()
    Image.fromarray(room).save(file, "JPEG", exif=exif)
    visitor.show(file.getvalue(), "photo.jpg", kind="image/jpeg")
    focal = 28 * math.hypot(*SIZE) / math.hypot(36, 24)
    assert visitor.text("#lens-short") == f"{focal:.0f} px, from the photo"


def test_by_keyboard(shown: Visitor, scene: Scene) -> None:
    press = shown.page.keyboard.press
    assert shown.page.evaluate("document.activeElement.id") == "frame"
    press("ArrowLeft")  # shows the crosshair in the middle
    press("Shift+ArrowRight")
    press("Shift+ArrowUp")
    assert shown.text("#whisper") == shown.text("#hover")
    with shown.new_row():
        press("Enter")
    press("Space")
    press("ArrowRight")
    with shown.new_row():
        press("Space")
    rows = shown.rows()
    np.testing.assert_array_equal(rows[:2, :2], [(101.5, 59.5)] * 2)
    assert rows[2, 0] > 103
    expected = [*scene.depth(rows[:1, :2]), *scene.depth(rows[1:, :2])]  # as they were asked
    np.testing.assert_array_equal(np.float32(rows[:, 2]), expected)
    shown.page.get_by_role("button", name="Delete point 1").press("Enter")
    assert shown.page.locator("#marks .number").all_inner_texts() == ["2"]
    shown.page.focus("#clear")
    press("Enter")
    assert shown.page.locator("#marks li").count() == 0
    assert shown.page.is_disabled("#download")
    assert shown.text("#value") == "Click the photo"


def test_every_control_can_be_reached_and_has_a_name(shown: Visitor) -> None:
    shown.click(50.5, 50.5, SIZE)
    shown.page.focus("[data-view=photo]")
    reached = []
    for _ in range(10):
        reached.append(
            shown.page.evaluate("(({ariaLabel, innerText}) => ariaLabel || innerText)(document.activeElement)")
        )
        assert (
            shown.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid" or not reached[1:]
        )
        shown.page.keyboard.press("Tab")
    assert all(reached)
    named = " | ".join(reached)
    for name in (
        "Photo",
        "Depth",
        "3D",
        "New photo",
        "Camera",
        "arrow keys",
        "Delete point 1",
        "Download CSV",
        "Clear",
        "Lens",
    ):
        assert name in named


def test_answers_that_overtake_each_other(shown: Visitor) -> None:
    held: list[Any] = []
    shown.page.route("**/depth", lambda route: route.continue_() if held else held.append(route))
    shown.page.mouse.click(*shown.place(20.5, 20.5, SIZE))
    shown.click(150.5, 100.5, SIZE)
    with shown.new_row():
        held[0].continue_()
    assert shown.page.locator("#marks .number").all_inner_texts() == ["1", "2"]
    np.testing.assert_array_equal(shown.rows()[:, :2], [(20.5, 20.5), (150.5, 100.5)])


def test_a_photo_that_the_browser_cannot_show(visitor: Visitor, scene: Scene, room: NDArray[np.uint8]) -> None:
    file = io.BytesIO()
    Image.fromarray(room).save(file, "TIFF")
    visitor.show(file.getvalue(), "room.tif", kind="image/tiff")
    assert visitor.page.get_by_role("button", name="Depth").get_attribute("aria-pressed") == "true"
    assert len(np.unique(picture(visitor, "#map").reshape(-1, 3), axis=0)) > 100
    visitor.click(50.5, 50.5, SIZE)
    assert np.float32(visitor.rows()[0, 2]) == scene.depth([(50.5, 50.5)])[0]


def test_a_new_photo_takes_the_place_of_the_old(visitor: Visitor, service: Service, room: NDArray[np.uint8]) -> None:
    others = len(service.scenes)  # of pages that were closed by force
    visitor.show(png(room))
    assert len(service.scenes) == others + 1
    visitor.click(50.5, 50.5, SIZE)
    visitor.drop(png(room[:, ::2]), "half.png", event="paste")
    visitor.page.wait_for_function("() => document.getElementById('status').textContent.startsWith('100 × 120')")
    assert visitor.page.locator("#marks li").count() == 0
    wait_until(lambda: len(service.scenes) == others + 1)
    visitor.page.goto("about:blank")
    wait_until(lambda: len(service.scenes) == others)


def test_a_scene_that_is_gone_is_encoded_again(shown: Visitor, service: Service, scene: Scene) -> None:
    service.scenes.close()
    shown.click(50.5, 50.5, SIZE)
    assert np.float32(shown.rows()[0, 2]) == scene.depth([(50.5, 50.5)])[0]
    (complaint,) = shown.errors
    assert "404" in complaint
    shown.errors.clear()


def test_refused_files(shown: Visitor) -> None:
    def refusal(data: bytes, name: str, kind: str) -> str:
        shown.page.evaluate("document.getElementById('error').textContent = ''")
        shown.drop(data, name, kind)
        shown.page.wait_for_selector("#error:not(:empty)")
        return shown.text("#error")

    assert "is not an image but text" in refusal(b"u,v\n1,2\n" * 9, "points.csv", "text/csv")
    assert "422" in shown.errors.pop()
    assert (
        refusal(bytes(400_000), "large.png", "image/png")
        == "large.png has 0.4 MB, this service takes up to 0.3 MB; resize it first"
    )
    # The photo that was there can still be asked.
    shown.click(50.5, 50.5, SIZE)
    assert shown.page.is_hidden("#error")
    assert "200 × 120" in shown.text("#status")


def test_a_service_that_went_away(shown: Visitor) -> None:
    shown.page.route("**/depth", lambda route: route.abort())
    shown.page.mouse.click(*shown.place(50.5, 50.5, SIZE))
    shown.page.wait_for_selector("#error:not([hidden])")
    assert shown.text("#error") == "The service does not answer; is spd-serve still running?"
    shown.errors.clear()


def test_demo_weights_are_said_to_be_such(visitor: Visitor) -> None:
    assert "do not rely on their depths" in visitor.text("#demo")
    assert "onnxruntime-cpu" in visitor.text("#model")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(visit: Callable[..., Visitor], room: NDArray[np.uint8], scheme: str) -> None:
    phone = visit(viewport={"width": 360, "height": 780}, is_mobile=True, has_touch=True, color_scheme=scheme)
    width = "[document.documentElement.scrollWidth, innerWidth]"
    assert phone.page.evaluate(width) == [360, 360]
    assert phone.text("h2") == "Start with a photo"
    phone.show(png(room))
    with phone.new_row():
        phone.page.touchscreen.tap(*phone.place(50.5, 50.5, SIZE))
    phone.drag((20, 20), (150, 100), SIZE)
    phone.page.click("#lens summary")
    for view in ("depth", "cloud", "photo"):
        phone.page.click(f"[data-view={view}]")
        assert phone.page.evaluate(width) == [360, 360]
    background = phone.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(247, 247, 245)", "dark": "rgb(17, 18, 20)"}[scheme]


def picture(visitor: Visitor, selector: str) -> NDArray[np.int16]:
    image = Image.open(io.BytesIO(visitor.page.locator(selector).screenshot())).convert("RGB")
    return np.asarray(image).astype(np.int16)


def test_the_point_cloud_turns(visit: Callable[..., Visitor], room: NDArray[np.uint8]) -> None:
    visitor = visit(reduced_motion="reduce")
    visitor.show(png(room))
    visitor.page.click("[data-view=cloud]")
    visitor.page.wait_for_selector("body:not(.refining)")
    visitor.page.wait_for_timeout(200)
    still = picture(visitor, "#cloud")
    drawn = (np.abs(still - (23, 25, 28)) > 3).any(axis=2)
    assert drawn.mean() > 0.3
    colours = np.median(still[drawn], axis=0)
    assert np.abs(colours - np.median(room.reshape(-1, 3), axis=0)).max() < 25, "it has the photo's colours"
    np.testing.assert_array_equal(picture(visitor, "#cloud"), still, "it moves, although motion is not wanted")
    box = visitor.page.locator("#cloud").bounding_box()
    visitor.page.mouse.move(box["x"] + 200, box["y"] + 200)
    visitor.page.mouse.down()
    visitor.page.mouse.move(box["x"] + 300, box["y"] + 210, steps=3)
    visitor.page.mouse.up()
    turned = picture(visitor, "#cloud")
    assert np.abs(turned - still).mean() > 1
    visitor.page.mouse.wheel(0, 400)
    visitor.page.wait_for_timeout(200)
    smaller = (np.abs(picture(visitor, "#cloud") - (23, 25, 28)) > 3).any(axis=2)
    assert smaller.mean() < 0.8 * (np.abs(turned - (23, 25, 28)) > 3).any(axis=2).mean()


def test_the_point_cloud_sways_until_it_is_touched(shown: Visitor) -> None:
    shown.page.click("[data-view=cloud]")
    shown.page.wait_for_selector("body:not(.refining)")
    before = picture(shown, "#cloud")
    shown.page.wait_for_timeout(600)
    assert np.abs(picture(shown, "#cloud") - before).mean() > 0.2
    shown.page.locator("#cloud").press("ArrowLeft")
    shown.page.wait_for_timeout(200)
    after = picture(shown, "#cloud")
    np.testing.assert_array_equal(picture(shown, "#cloud"), after)


def test_the_camera(visitor: Visitor) -> None:
    visitor.page.click("#camera")
    visitor.page.wait_for_function("() => document.querySelector('video').videoWidth > 0")
    visitor.page.click("#shoot")
    visitor.page.wait_for_selector("body[data-state=photo]:not(.busy)")
    assert visitor.page.is_hidden("#viewfinder")
    visitor.page.click("#camera")
    visitor.page.wait_for_selector("#viewfinder[open]")
    visitor.page.keyboard.press("Escape")
    assert visitor.page.is_hidden("#viewfinder")


def test_depths_are_written_with_all_their_digits(visitor: Visitor) -> None:
    values = np.random.default_rng(0).lognormal(1, 3, 2000).astype(np.float32)
    texts = visitor.import_module("format.js", "v[0].map(m.float32Text)", values.tolist())
    np.testing.assert_array_equal(np.float32(texts), values)
    assert max(map(len, texts)) < 20


@pytest.mark.parametrize(
    ("width", "height", "most"),
    [(192, 160, 0), (1, 1, 0), (333, 250, 0), (150, 200, 0), (40, 7, 0), (34, 126, 0), (250, 1, 0), (60, 250, 1)],
)
def test_the_letterbox_is_that_of_the_runtime(visitor: Visitor, width: int, height: int, most: int) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    letterbox = Letterbox.fit(width, height, 192, 160)
    points = random.random((9, 2)) * (width, height)
    pixels = np.dstack([image, np.full((height, width), 255, np.uint8)])
    code = """(([text, points, photo, graph]) => {
        const pixels = Uint8Array.from(atob(text), (byte) => byte.charCodeAt(0));
        const rows = (from, count) => pixels.subarray(4 * photo.width * from, 4 * photo.width * (from + count));
        const image = m.letterbox(rows, photo, graph);
        const bytes = btoa(Array.from(image, (byte) => String.fromCharCode(byte)).join(""));
        return [bytes, Array.from(m.toGraph(points, photo, m.fit(photo, graph)))];
    })(v)"""
    photo, graph = {"width": width, "height": height}, {"width": 192, "height": 160}
    text = base64.b64encode(pixels.tobytes()).decode()
    found, placed = visitor.import_module("letterbox.js", code, text, points.ravel().tolist(), photo, graph)
    got = np.frombuffer(base64.b64decode(found), np.uint8).reshape(160, 192, 3).astype(int)
    assert np.abs(got - letterbox.apply(Image.fromarray(image))).max() <= most
    np.testing.assert_allclose(np.float32(placed).reshape(-1, 2), letterbox.to_graph(points), rtol=2e-7)


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_focal_length_that_the_browser_reads(visitor: Visitor, room: NDArray[np.uint8], order: str) -> None:
    exif = Image.Exif()
    exif.endian = order
    exif[ExifTags.Base.Make] = "maker"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 26
    file = io.BytesIO()
    Image.fromarray(room).save(file, "JPEG", exif=exif)
    head = list(file.getvalue()[:400])
    code = "await m.focalPixels(new Blob([new Uint8Array(v[0])]), {width: 200, height: 120})"
    whole = visitor.import_module("exif.js", code, head)
    assert whole == pytest.approx(26 * math.hypot(*SIZE) / math.hypot(36, 24))
    cut = "m.focalPixels(new Blob([new Uint8Array(v[0].slice(0, n))]), {width: 200, height: 120})"
    cuts = f"await Promise.all(v[0].map((_, n) => {cut}))"
    assert set(visitor.import_module("exif.js", cuts, head)) == {None, whole}
    assert visitor.import_module("exif.js", code, list(png(room)[:400])) is None
