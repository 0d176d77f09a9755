"""`clipseg embed` writes a file that `--embedding` reads."""

from pathlib import Path

from checkpoints import write_checkpoint
from pictures import Program, picture, records, save

PROMPTS = "-p red --support disc=ref.png --support-box 60,40,80,80"


def test_saved_embeddings_give_the_masks_of_their_prompts(clipseg: Program, tmp_path: Path) -> None:
    """Byte for byte, under their labels."""
    save(tmp_path / "imgs/a.png", picture())
    save(tmp_path / "ref.png", picture(200, 160, 5))
    clipseg(f"clipseg embed {PROMPTS} -o e.safetensors")
    clipseg("clipseg segment imgs --embedding e.safetensors -f soft -o saved")
    clipseg(f"clipseg segment imgs {PROMPTS} -f soft -o direct")
    for path in ("soft/red/a.png", "soft/disc/a.png"):
        assert (tmp_path / "saved" / path).read_bytes() == (tmp_path / "direct" / path).read_bytes()
    masks = records(tmp_path / "saved/manifest.jsonl")[0]["masks"]
    assert [mask["prompt"] for mask in masks] == ["red", "exemplar ref.png"]


def test_an_embedding_fits_every_model_with_its_clip(clipseg: Program, tmp_path: Path) -> None:
    """A copy of the model under another name is accepted. A model with another CLIP is refused, naming both."""
    save(tmp_path / "a.png", picture())
    write_checkpoint(tmp_path / "other")
    clipseg("clipseg embed -p red -o e.safetensors")
    message = clipseg("clipseg segment a.png --embedding e.safetensors -m ./other", expect=2).stderr
    assert "shapes" in message and "./other" in message and not (tmp_path / "clipseg-out/masks").exists()
    Path(tmp_path / "copy").symlink_to(clipseg("clipseg models path shapes").stdout.strip())
    clipseg("clipseg segment a.png --embedding e.safetensors -m ./copy")
    assert "given twice" in clipseg("clipseg segment a.png -p red --embedding e.safetensors", expect=2).stderr


def test_wrong_files_are_named(clipseg: Program, tmp_path: Path) -> None:
    """A file that is cut short, an image, and a file that does not exist."""
    save(tmp_path / "a.png", picture())
    clipseg("clipseg embed -p red -o e.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "e.safetensors").read_bytes()[:300])
    for wrong in ("cut.safetensors", "a.png", "nothing.safetensors"):
        assert wrong in clipseg(f"clipseg segment a.png --embedding {wrong}", expect=2).stderr
