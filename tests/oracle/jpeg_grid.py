"""JPEGs of every sampling, order of scans and restart interval, and the pixels that libjpeg makes of them.

    python tests/oracle/jpeg_grid.py                     # writes tests/fixtures/jpeg
    python tests/oracle/jpeg_grid.py --grid DIR          # a larger grid, to compare decoders with djpeg by hand

Needs cjpeg, djpeg and jpegtran (Debian: libjpeg-turbo-progs) and Pillow. Files of one kind and size differ in the order of their
coded data alone, so one PNG has the pixels of all of them. `crates/perceiver-data/src/decode/jpeg/tests.rs` reads them.
"""

import argparse
import itertools
import math
import pathlib
import subprocess
import tempfile

from PIL import Image

HERE = pathlib.Path(__file__).parent

# Samples of luma and the two chroma components, across x down.
SAMPLINGS = {
    "444": "1x1,1x1,1x1",
    "422": "2x1,1x1,1x1",
    "440": "1x2,1x1,1x1",
    "420": "2x2,1x1,1x1",
    "411": "4x1,1x1,1x1",
    "mixed": "2x2,2x1,1x2",
    "fine-chroma": "1x1,2x2,2x2",
    "thirds": "3x1,1x1,1x1",
}
MORE_SAMPLINGS = {
    "410": "4x2,1x1,1x1",
    "441": "1x4,1x1,1x1",
    "one-coarse": "2x2,2x2,1x1",
    "422-double": "2x2,1x2,1x2",
}
# Which components each scan has; none is all of them in one, "progressive" libjpeg's own script.
SCANS = {
    "one": None,
    "separate": [[0], [1], [2]],
    "luma-first": [[0], [1, 2]],
    "chroma-last": [[0, 1], [2]],
    "reversed": [[2], [1], [0]],
    "progressive": "progressive",
}
RESTARTS = {"": None, "row": "1", "3": "3B"}
SEPARATE_INKS = [[0], [1], [2], [3]]


def picture(width, height, inks=False):
    """Waves, edges and a gradient, as pixels of three channels, or of four."""
    image = Image.new("CMYK" if inks else "RGB", (width, height))
    for y, x in itertools.product(range(height), range(width)):
        red = int(127 + 120 * math.sin(x / 6 + y / 11))
        green = int(127 + 120 * math.cos(y / 5))
        blue = 255 if (x // 9 + y // 7) % 3 == 0 else 3 * x % 256
        image.putpixel((x, y), (red, green, blue) + ((2 * y % 200,) if inks else ()))
    return image


def run(*command):
    subprocess.run(command, check=True)


def rescanned(source, target, scans, restarts, scratch):
    """The same coefficients in another order."""
    command = ["jpegtran", "-optimize", "-copy", "none"]
    if scans == "progressive":
        command.append("-progressive")
    elif scans:
        script = scratch / "scans.txt"
        script.write_text("".join(" ".join(map(str, scan)) + ";\n" for scan in scans))
        command += ["-scans", str(script)]
    if restarts:
        command += ["-restart", restarts]
    run(*command, "-outfile", str(target), str(source))


def pixels(jpeg, png, scratch):
    ppm = scratch / "decoded.ppm"
    run("djpeg", "-ppm", "-outfile", str(ppm), str(jpeg))
    Image.open(ppm).convert("RGB").save(png, optimize=True)


def kind(name, size, source, scans, restarts, into, scratch):
    """All files of a kind and a size, and the pixels of them."""
    stem = f"{name}_{size[0]}x{size[1]}"
    for (order, script), (interval, value) in itertools.product(scans.items(), restarts.items()):
        target = into / f"{stem}.{order}{'.restarts-' + interval if interval else ''}.jpg"
        rescanned(source, target, script, value, scratch)
    pixels(source, into / f"{stem}.png", scratch)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--grid", type=pathlib.Path)
    arguments = parser.parse_args()
    into = arguments.grid or HERE.parent / "fixtures" / "jpeg"
    into.mkdir(parents=True, exist_ok=True)
    large = arguments.grid is not None
    sizes = [(45, 29), (40, 24)]
    sizes += [(88, 88), (16, 16), (7, 5), (1, 1), (130, 17), (33, 64)] if large else []
    samplings = SAMPLINGS | (MORE_SAMPLINGS if large else {})
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        source, raw = scratch / "source.jpg", scratch / "source.ppm"
        for size in sizes:
            picture(*size).save(raw)
            for name, sampling in samplings.items():
                if not large and size == (40, 24) and name not in ("422", "420"):
                    continue
                run("cjpeg", "-quality", "60", "-sample", sampling, "-outfile", str(source), str(raw))
                orders = SCANS if large or name in ("444", "420") else {o: SCANS[o] for o in ("one", "separate", "progressive")}
                intervals = RESTARTS if large else {"": None, "3": "3B"}
                kind(name, size, source, orders, intervals, into, scratch)
            if not large and size != (45, 29):
                continue
            orders = {"one": None, "separate": [[0], [1], [2]]}
            run("cjpeg", "-quality", "60", "-rgb", "-sample", "2x2,1x1,1x1", "-outfile", str(source), str(raw))
            kind("rgb-420", size, source, orders, {"3": "3B"}, into, scratch)
            run("cjpeg", "-quality", "60", "-grayscale", "-sample", "2x2", "-outfile", str(source), str(raw))
            kind("grey-2x2", size, source, {"one": None}, {"": None, "3": "3B"}, into, scratch)
            picture(*size, inks=True).save(source, "JPEG", quality=60, subsampling=2)
            kind("cmyk-420", size, source, {"one": None, "separate": SEPARATE_INKS}, {"3": "3B"}, into, scratch)


if __name__ == "__main__":
    main()
