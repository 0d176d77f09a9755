"""Generates names and prompts with a meaning to HTML, scripts, URLs, CSS, templates, JSON, shells or terminals."""

import itertools
import random
from collections.abc import Iterator

RUN = "pwned=1"  # the effect of a script that runs
WRAPS = (
    "{}", '"{}', "'{}", '">{}', "'>{}", "-->{}", "<!--{}", "]]>{}", "</script>{}", "</style>{}", "</title>{}",
    "</textarea>{}", "\\{}", "\\u003c{}", "&lt;{}", "{}\u2028", "\u202e{}", "\ufeff{}", "`{}`", "{{{{{}}}}}",
)  # fmt: skip
CORES = (
    f"<script>{RUN}</script>", f"<img src=x onerror={RUN}>", f"<svg/onload={RUN}>", f"<iframe srcdoc='<b>{RUN}'>",
    f"javascript:{RUN}", f"onfocus={RUN} autofocus x=", f"<a href=javascript:{RUN}>a</a>", "<style>*{display:none}",
    "<meta http-equiv=refresh content=0>", "<base href=//evil.example>", f"<details open ontoggle={RUN}>",
    "url(//evil.example/x)", "expression(1);}*{color:red", f"${{{RUN}}}", f"{{{{constructor.constructor('{RUN}')()}}}}",
    f"<%= {RUN} %>", f"#{{{RUN}}}", f"{{% set {RUN} %}}", f"');{RUN};('", f'";{RUN};"', f"`;{RUN};`", "$(touch pwned)",
    "; touch pwned #", "=cmd|' /C calc'!A0", "data:text/html,<b>x", "%3Cscript%3E", "&#60;b&#62;", "\\x3cb\\x3e",
    "<b>\u202etxt.exe", "a\tb\x1b[2J\x07", "a\nb\r<b>", "\u2066<i>\u2069", "\x7f\x9b31m<u>",
    "é\u0301\u0327<s>", "\U0001f469\u200d\U0001f680<b>", "＜script＞", "<math><mi//xlink:href=data:x>",
    "<template><p>", "<form action=//evil.example><input type=submit>", "__proto__", "constructor", "null",
    "-rf", "--help",
)  # fmt: skip


def texts() -> Iterator[str]:
    """Yields each core in each wrap, without repetition."""
    seen = set()
    for wrap, core in itertools.product(WRAPS, CORES):
        text = wrap.format(core)
        if text not in seen:
            seen.add(text)
            yield text


def names(count: int) -> list[bytes]:
    """Returns relative paths of PNG files. A `/` makes folders; some names are not UTF-8."""
    found = []
    for index, text in enumerate(texts()):
        raw = text.encode() + (b"\xff" if index % 9 == 0 else b"")
        parts = [part for part in raw.split(b"/") if part.strip(b".")]
        found.append(b"/".join(b"_" + part if part[:1] == b"." else part for part in parts) + b".png")
    return random.Random(count).sample(list(dict.fromkeys(found)), count)


def prompts(count: int) -> list[str]:
    """Returns prompts of one line whose labels all differ."""
    found: dict[str, str] = {}
    for index, text in enumerate(texts()):
        line = "".join(" " if char in "\r\n" else char for char in text).strip()
        prompt = f"{index} {line}" if "=" in line else line  # the label is the text before a `=`
        found.setdefault(prompt, prompt)
    return random.Random(count).sample(list(found), count)
