"""Makes the pages in which the shipped agents dream, for any static host; they are built, not kept.

    python docs/pages.py FOLDER

FOLDER/NAME/index.html for every agent that comes with the package, and FOLDER/index.html, which links to them.
"""

import sys
from pathlib import Path

from wm_jax.pipeline import bundle
from wm_jax.play import page
from wm_jax.pretrained import bundles

INDEX = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Dreams of wm_jax</title>
<style>:root {{ color-scheme: light dark }} body {{ font: 1.1rem/1.6 system-ui; margin: 2rem }}</style>
<h1>Step into the dream</h1>
<ul>
{links}
</ul>
</html>
"""


def main(folder: Path) -> None:
    """Make all pages."""
    links = []
    for path in bundles().values():
        written = page.write(bundle.load(path), folder / path.stem, half=False, say=print)
        links.append(f'<li><a href="{path.stem}/{page.FILE}">{path.stem.replace("_", " ")}</a></li>')
        print(f"{written}: {written.stat().st_size / 2**20:.1f} MiB")
    (folder / page.FILE).write_text(INDEX.format(links="\n".join(links)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
