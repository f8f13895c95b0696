"""A contact sheet: studies side by side, captioned with their findings."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from emrrg_lib.phantom.dataset import draw_study

CAPTION = 16


def describe(finding: dict) -> str:
    """Short name of a finding with side and severity, e.g. "effusion left small"."""
    words = (finding["kind"], finding["side"], finding["place"], finding["severity"])
    return " ".join(word for word in words if word)


def contact_sheet(
    out: Path, seed: int, studies: int = 12, size: int = 192, columns: int = 3, indices=None
) -> Path:
    """Draws studies with both views and a caption under each, and saves one picture.

    Args:
        out: PNG or JPEG file to write.
        seed: Seed of the data set.
        studies: Number of studies, unless `indices` names them.
        size: Pixels per view.
        columns: Studies per row.
        indices: Study numbers to draw; the first `studies` by default.

    Returns:
        `out`.
    """
    indices = list(range(studies)) if indices is None else list(indices)
    rows = -(-len(indices) // columns)
    width, height = 2 * size + 6, size + CAPTION
    sheet = Image.new("L", (columns * width, rows * height), 16)
    pen = ImageDraw.Draw(sheet)
    for k, index in enumerate(indices):
        x, y = k % columns * width, k // columns * height
        study = draw_study(seed, index, size)
        for view, image in enumerate(study.images):
            sheet.paste(Image.fromarray(image), (x + view * size, y))
        caption = ", ".join(describe(f) for f in study.findings) or "normal"
        while len(caption) > 1 and pen.textlength(caption) > width - 6:
            caption = caption.rstrip("…")[:-1].rstrip(" ,") + "…"
        pen.text((x + 3, y + size + 2), caption, fill=235)
    sheet.save(out, optimize=True)
    return Path(out)
