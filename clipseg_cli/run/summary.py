"""What a run found, as a value: fed record by record, in constant memory per label, whatever the number of images."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from clipseg_cli.inputs.colour import conversion
from clipseg_cli.inputs.finding.search import LeftOut
from clipseg_cli.outputs.record import Record
from clipseg_cli.storage.paths import escape

NEAR = 0.1  # probability: a presence score at most this far from the threshold is unsure
FAINT = 0.1  # probability: below this presence score, a lower threshold only finds noise
STEP = 0.05  # probability: suggested thresholds are multiples of this
KINDS = 5  # kinds of files that a line names; run.json names all
REASONS = {  # why files were left out, in words
    "no_image": ("file that is no image", "files that are no images", ""),
    "link": ("symbolic link", "symbolic links", "; --follow includes them"),
}


@dataclass(slots=True)
class Label:
    """What was found of one label."""

    found: int = 0  # images in which its mask is not empty
    held_back: int = 0  # images in which --refine sam left its mask, or a part of it, as it was
    unsure: int = 0  # images whose presence score is at most NEAR away from what it takes to be found
    shares: Counter[float] = field(default_factory=Counter)  # of the image, in three digits: at most 3,701 keys
    best: tuple[float, float] = (0.0, 0.0)  # the highest presence score, and the threshold of its image

    def median(self) -> float:
        """Returns the median share of the image that its masks cover where it was found, to three significant digits.

        Returns 0 if it was not found.
        """
        ranks, middle, passed = {(self.found + 1) // 2, self.found // 2 + 1}, 0.0, 0
        for share, count in sorted(self.shares.items()):
            middle += share * sum(passed < rank <= passed + count for rank in ranks)
            passed += count
        return float(f"{middle / len(ranks):.3g}")

    def lower(self) -> float | None:
        """Returns a threshold that may find a label that was never found; None if no threshold is likely to."""
        presence, threshold = self.best
        if self.found or not FAINT <= presence < threshold:
            return None
        return round(STEP * (math.ceil(round(presence / STEP, 6)) - 1), 2)


@dataclass(slots=True)
class Summary:
    """The counts of one run. `add` takes each record; discovery counts into `left_out`."""

    min_presence: float = 0.0  # of the run: images below it get empty masks
    left_out: LeftOut = field(default_factory=Counter)
    labels: dict[str, Label] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)  # by error class
    done: int = 0
    before: int = 0  # of these, by an earlier run
    photos: tuple[int, int] = (0, 0)  # in data sets: original files, and images that were encoded again
    frames_left: int = 0  # further frames of files of which only the first was processed
    alphas: tuple[int, int] = (0, 0)  # GeoTIFFs of which a band was taken as transparency, and those where it was not
    seconds: float = 0.0  # of the whole run

    @property
    def failed(self) -> int:
        """The number of failed images."""
        return self.failures.total()

    @property
    def rate(self) -> float:
        """Images per second that this run processed, including the time to load the model."""
        return (self.done - self.before + self.failed) / self.seconds if self.seconds else 0.0

    def add(self, record: Record) -> None:
        """Counts a record. That of a resumed image counts like any other."""
        if record.error is not None:
            self.failures[record.error.kind] += 1
            return
        self.done += 1
        self.before += record.kept is not None
        self.photos = self.photos[0] + record.photos[0], self.photos[1] + record.photos[1]
        document = record.document()
        self.frames_left += document["frames"] - 1
        notes = document["notes"].split("; ")
        taken, ignored = (any(each.endswith(end) for each in notes) for end in (conversion.ALPHA, conversion.NOT_ALPHA))
        self.alphas = self.alphas[0] + taken, self.alphas[1] + ignored
        for mask in document["masks"]:  # the same digits as those that a resumed run reads
            label = self.labels.setdefault(mask["label"], Label())
            presence, threshold = mask["presence"], mask["threshold"]
            if mask["area"]:
                label.found += 1
                label.shares[float(f"{mask['area_frac']:.3g}")] += 1
            label.held_back += bool(mask["held_back"])
            label.unsure += round(abs(presence - max(threshold, self.min_presence)), 4) <= NEAR
            label.best = max(label.best, (presence, threshold))

    def images(self) -> dict[str, int]:
        """Returns the counts of images as JSON types."""
        return {"done": self.done, "of_these_before": self.before, "failed": self.failed}

    def document(self) -> dict[str, Any]:
        """Returns the summary as JSON types."""
        left_out: dict[str, dict[str, int]] = {}
        for (reason, kind), count in sorted(self.left_out.items()):
            left_out.setdefault(reason, {})[kind] = count
        return {
            "labels": {
                name: {"found": label.found, "median_area_frac": label.median(), "unsure": label.unsure}
                | ({"held_back": label.held_back} if label.held_back else {})
                for name, label in self.labels.items()
            },
            "failed": dict(sorted(self.failures.items())),
            "left_out": left_out,
            "photos": dict(zip(("original", "encoded"), self.photos, strict=True)),
            "frames_left": self.frames_left,
            "images_per_second": round(self.rate, 2),
        }

    def suggestion(self) -> tuple[str, float, float, float] | None:
        """Returns a label that was never found, a threshold that may find it, its highest presence score and the
        threshold there; None if there is no such label."""
        for name, label in self.labels.items():
            lower = label.lower()
            if lower is not None and label.best[0] >= self.min_presence:
                return name, lower, *label.best
        return None

    def files_left_out(self) -> str:
        """Returns how many files the folders hold that the run does not take, by reason and kind; "" if none."""
        told = []
        for reason, (one, several, way) in REASONS.items():
            kinds = Counter({kind: count for (why, kind), count in self.left_out.items() if why == reason})
            if total := kinds.total():
                most = sorted(kinds.items(), key=lambda each: (-each[1], each[0]))
                named = [f"{count} {escape(kind)}" for kind, count in most[:KINDS]]
                more = [f"{len(most) - KINDS} more kinds"] if len(most) > KINDS else []
                listed = ", ".join(named + more)
                told.append(f"{total} {one if total == 1 else several} ({listed}{way})")
        return "left out: " + ", ".join(told) if told else ""
