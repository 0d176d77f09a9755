"""WebDataset: one sample per image, as members of a tar archive."""

import hashlib
import io
import json
from collections.abc import Iterator

from clipseg_cli.outputs.record import readable_text
from clipseg_cli.outputs.writers import photos, raster
from clipseg_cli.outputs.writers.annotations import FRAGMENTS
from clipseg_cli.outputs.writers.result import File, Result
from clipseg_cli.storage.originals import Original


def webdataset(stem: str, result: Result) -> Iterator[File]:
    """Yields the tar members of one sample, without the end of an archive: photo, one mask per label, and JSON.

    WebDataset ends a sample's key at the first dot of the file name. Dots in the stem therefore become underscores,
    and `~` and a hash are added, so that `a.b` and `a_b` remain two samples. Raises ImageError.
    """
    import tarfile

    folder, slash, name = stem.rpartition("/")
    digits = hashlib.sha256(name.encode()).hexdigest()[:8]
    key = folder + slash + (f"{name.replace('.', '_')}~{digits}" if "." in name else name)
    described = [
        {"label": label, "mask": f"{slug}.png", "score": round(score, 4), "threshold": threshold}
        for label, slug, score, threshold in zip(
            result.labels, result.slugs, result.scores, result.thresholds, strict=True
        )
    ]
    members: dict[str, bytes] = {}
    for path, _, content in photos.photo("webdataset", "photo", result):
        members[path.rpartition(".")[2]] = content.read() if isinstance(content, Original) else content
    members |= {f"{slug}.png": raster.mask_png(mask) for slug, mask in zip(result.slugs, result.masks, strict=True)}
    name = readable_text(result.name)
    document = json.dumps({"image": name, "masks": described}, ensure_ascii=False)
    members["json"] = document.encode("utf-8", "backslashreplace")
    data = io.BytesIO()
    for extension, content in members.items():
        info = tarfile.TarInfo(f"{key}.{extension}")
        info.size = len(content)
        data.write(info.tobuf(tarfile.PAX_FORMAT))
        data.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
    yield f"{FRAGMENTS}/webdataset/{stem}.tar", None, data.getvalue()
