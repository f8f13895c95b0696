"""Phantom images for the real IU X-ray reports: the full-size data path runs before the images arrive.

People indexed every IU report with MeSH terms such as "Pulmonary Atelectasis/base/left/mild". Each term
becomes a finding of PhantomCXR with the side, place and severity that it names; the rest is drawn at random.
Text, ids, split and paths are those of the annotation. The images are synthetic, and say so.

Mapped to the CheXpert observations, the terms also check the rule labeler. That measures agreement, not
accuracy: the indexers tagged what a report mentions as present or likely, and have no tag for "negated".
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from pooch import file_hash
from tqdm import tqdm

from emrrg_lib.data.annotation import load_annotation
from emrrg_lib.data.archives import escapes
from emrrg_lib.data.iu_xray import openi_reports
from emrrg_lib.data.prepare import Manifest, file_record
from emrrg_lib.data.study import SPLITS, Study, read_table
from emrrg_lib.files import InputError, atomic_path, end_with_parent, write_json
from emrrg_lib.phantom.catalogue import KINDS, clash
from emrrg_lib.phantom.dataset import film_findings, require_size

_MESH = read_table(Path(__file__).with_name("mesh.csv"), ("heading", "observations"))
HEADINGS = {heading: tuple(names.split("; ")) for heading, names in _MESH.to_numpy()}
"""Main heading -> observations."""

QUALIFIED: tuple[tuple[set[str], set[str], str], ...] = (
    ({"thickening"}, {"pleura"}, "Pleural Other"),
    ({"cardiac shadow", "heart"}, {"enlarged"}, "Cardiomegaly"),
    ({"mediastinum"}, {"enlarged", "prominent", "widened"}, "Enlarged Cardiomediastinum"),
)
"""Main headings that need one of these qualifiers, and the observation that they then name."""

MARK = "SYNTHETIC"
_KIND = {kind.label: name for name, kind in KINDS.items() if kind.label} | {"Pneumonia": "consolidation"}
_AIR = set(
    "hyperdistention; emphysema; pulmonary emphysema; bullous emphysema; lung, hyperlucent; "
    "pulmonary disease, chronic obstructive".split("; ")
)
_ELSEWHERE = set(  # the phantom draws nothing there
    "abdomen; humerus; shoulder; clavicle; sternum; spine; thoracic vertebrae; cervical vertebrae; "
    "lumbar vertebrae; breast; neck; coronary vessels; aorta; aortic valve; mitral valve; heart atria; "
    "esophagus".split("; ")
)
_DEVICE = {
    "catheters, indwelling": "catheter",
    "tube, inserted": "tube",
    "implanted medical device": "pacemaker",
    "medical device": "pacemaker",
}
_ZONES = {
    "upper": ("apex", "upper lobe"),
    "middle": ("middle lobe", "lingula", "hilum"),
    "lower": ("lower lobe", "base", "costophrenic angle", "retrocardiac"),
    "posterior": ("posterior",),
    "anterior": ("anterior",),
}
_ZONE = {word: zone for zone, words in _ZONES.items() for word in words}
_IMPLIED_SIDE = {"middle lobe": "right", "lingula": "left", "retrocardiac": "left"}
_GRADE = {"borderline": 0, "mild": 0, "small": 0, "moderate": 1, "severe": 2, "large": 2}


def mesh_observations(tags: str) -> set[str]:
    """Observations that a report's MeSH tags name.

    Args:
        tags: semicolon-separated terms, each a main heading and qualifiers joined by slashes, as in
            the ``MeSH`` column of the Kaggle CSV.

    Returns:
        Names of CheXpert observations without "No Finding" (its tag is ``normal``).
    """
    found: set[str] = set()
    for term in tags.lower().split(";"):
        heading, *qualifiers = (part.strip() for part in term.split("/"))
        found.update(HEADINGS.get(heading, ()))
        for headings, needed, observation in QUALIFIED:
            if heading in headings and needed.intersection(qualifiers):
                found.add(observation)
    return found


Wanted = tuple[str, dict]  # kind, and the side, place and severity that the term gives


def wanted_findings(terms: Iterable[str]) -> tuple[list[Wanted], list[str]]:
    """Turns a report's MeSH terms into findings for the phantom.

    One finding is drawn for each kind and side, the first that is named. A term is not drawn if its kind
    clashes with that of an earlier one.

    Returns:
        Findings in the phantom's order, and the terms not drawn ("normal" is neither).
    """
    wanted: dict[tuple[str, str | None], Wanted] = {}
    left_out = []
    for term in terms:
        kinds = _kinds(term)
        present = {name for name, _ in wanted.values()}
        fits = [kind for kind in kinds if not clash(kind, present)]
        for kind in fits:
            for given in _given(kind, term):
                wanted.setdefault((kind, given.get("side")), (kind, given))
        if len(fits) < max(len(kinds), 1) and term.strip().lower() != "normal":
            left_out.append(term.strip())
    return sorted(wanted.values(), key=lambda item: list(KINDS).index(item[0])), left_out


def _words(term: str) -> list[str]:
    return [word.strip() for word in term.lower().split("/")]


def _kinds(term: str) -> list[str]:
    """The phantom's kinds of finding that one term names."""
    heading, *words = _words(term)
    if _ELSEWHERE & set(words) or heading == "stents":
        return []
    air = ["hyperinflation"] if _AIR & {heading, *words} else []
    return sorted({_KIND[label] for label in mesh_observations(term)}) + air


def _given(kind: str, term: str) -> list[dict]:
    """Side, place and severity of a term, as far as the phantom knows them; one dict a finding."""
    heading, *words = _words(term)
    rule, given = KINDS[kind], {}
    places = [_ZONE.get(word) for word in words] + [_DEVICE.get(heading) if kind == "device" else None]
    if kind == "pleural thickening":
        places = ["apical" for place in places if place == "upper"]
    if known := [place for place in places if place in rule.places and place]:
        given["place"] = known[0]
    grades = [_GRADE[word] for word in words if word in _GRADE] + [2] * (heading == "mass")
    severities = list(rule.severities)
    if grades and severities != [None]:
        given["severity"] = severities[min(grades[0], len(severities) - 1)]
    sides = [side for side in ("right", "left") if side in words or "bilateral" in words]
    sides = sides or [_IMPLIED_SIDE[word] for word in words if word in _IMPLIED_SIDE]
    if len(sides) == 2 and "both" in rule.sides:
        sides = ["both"]
    return [given | {"side": side} for side in sides if side in rule.sides] or [given]


def rehearse_iu_xray(
    annotation: str | Path,
    reports: str | Path,
    folder: str | Path,
    size: int = 224,
    seed: int = 0,
    workers: int = 2,
    limit: int | None = None,
) -> dict:
    """Writes the annotation's data set with drawn images; called again, it goes on where it stopped.

    `folder` gets images/ (each image has the word SYNTHETIC in a corner), manifest.json, synthetic.json
    (what the images are, and which findings each was to show) and, last, a copy of annotation.json.

    Args:
        annotation: R2Gen's annotation.json of IU X-ray.
        reports: Open-i's NLMCXR_reports.tgz, or the folder of its XML files.
        folder: New, empty, or begun earlier with the same options.
        size: Pixels a side.
        seed: Seed of patients, noise and whatever a term leaves open.
        workers: Processes; the images do not depend on it.
        limit: Only the first so many studies of each split.

    Returns:
        {"studies", "drawn": {kind: findings}, "not_drawn": {MeSH term: times}}.

    Raises:
        InputError: A missing or damaged file, ids that are not those of IU X-ray, a `folder` in other use.
    """
    require_size(size)
    annotation, folder = Path(annotation), Path(folder)
    studies = [s for split in SPLITS for s in load_annotation(annotation, split, check_images=False)[:limit]]
    plans = _plan(studies, annotation, reports)
    summary = {"studies": len(studies), **_counts(plans)}
    settings = {"command": "emrrg data rehearse iu-xray", "size": size, "seed": seed}
    settings |= {"annotation": file_hash(annotation)} | ({"limit": limit} if limit else {})
    manifest = Manifest(folder, settings)
    what = "SYNTHETIC: phantom images drawn from the MeSH terms of real reports; no radiographs"
    asked_for = {name: wanted for name, (wanted, _) in plans.items() if wanted}
    write_json(folder / "synthetic.json", {"what": what, **settings, **summary, "asked_for": asked_for})
    tasks = []
    for index, study in enumerate(studies):
        names = [f"images/{study.id}/{k}.png" for k in range(len(study.images))]
        if not all(map(manifest.has, names)):
            tasks.append((index, plans[study.id][0], names))
    _draw_all(tasks, manifest, seed, size, workers)
    _write_annotation(annotation, folder / "annotation.json", limit)
    manifest.finish()
    return summary


def _counts(plans: dict) -> dict[str, dict[str, int]]:
    """How often each finding is drawn, and how often each MeSH term is not."""
    drawn = Counter(kind for wanted, _ in plans.values() for kind, _ in wanted)
    not_drawn = Counter(term for _, left_out in plans.values() for term in left_out)
    return {"drawn": dict(drawn.most_common()), "not_drawn": dict(not_drawn.most_common())}


def _write_annotation(annotation: Path, target: Path, limit: int | None) -> None:
    """The annotation as it is, or the first `limit` studies of each split."""
    if limit:
        whole = json.loads(annotation.read_text(encoding="utf-8-sig"))
        write_json(target, {split: whole[split][:limit] for split in SPLITS})
        return
    with atomic_path(target) as temporary:
        shutil.copyfile(annotation, temporary)


def _plan(
    studies: list[Study], annotation: Path, reports: str | Path
) -> dict[str, tuple[list[Wanted], list[str]]]:
    """Study -> its findings and the terms not drawn; InputError if the reports lack a study."""
    if bad := [study.id for study in studies if escapes(f"images/{study.id}/0.png")]:
        raise InputError(f"{annotation}: the id {bad[0]!r} is not the name of a folder; rename the study")
    terms = {report.study_id: report.mesh for report in openi_reports(reports, [])}
    if unknown := [study.id for study in studies if study.id not in terms]:
        raise InputError(
            f"{len(unknown)} of {len(studies)} studies of {annotation}, first {unknown[0]}, are"
            f" not in {reports}: give the annotation and the reports of IU X-ray"
        )
    return {study.id: wanted_findings(terms[study.id]) for study in studies}


def _draw_all(tasks: list, manifest: Manifest, seed: int, size: int, workers: int) -> None:
    draw = partial(_draw, folder=manifest.folder, seed=seed, size=size)
    with ProcessPoolExecutor(workers, initializer=end_with_parent) as pool:
        running = [pool.submit(draw, *task) for task in tasks]
        try:
            for future in tqdm(as_completed(running), total=len(running), desc="drawing", unit="study"):
                for name, entry in future.result().items():
                    manifest.add(name, entry)
        finally:
            pool.shutdown(cancel_futures=True)


def _draw(index: int, wanted: list[Wanted], names: list[str], folder: Path, seed: int, size: int) -> dict:
    """Draws one study's views, PA first; returns the manifest's entries."""
    films, _ = film_findings(seed, index, wanted, size)
    entries = {}
    for k, name in enumerate(names):
        picture = Image.fromarray(films[k % len(films)])
        text = ImageFont.load_default(max(9, size // 16))
        ImageDraw.Draw(picture).text(
            (size // 50, size // 50), MARK, fill=255, font=text, stroke_width=1, stroke_fill=0
        )
        with atomic_path(folder / name) as temporary:
            picture.save(temporary, format="PNG")
        entries[name] = file_record(folder / name, "PhantomCXR")
    return entries
