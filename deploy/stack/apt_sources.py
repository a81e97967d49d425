"""Finds the Debian mirror this machine already trusts in its own apt sources (sources.list(5), both formats)."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
_DEBIAN_SUITE = re.compile(
    r"^(bullseye|bookworm|trixie|forky|sid|stable|oldstable|oldoldstable|testing|unstable)(-updates|-backports)?$"
)
_ONE_LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)$")


@dataclass(frozen=True, slots=True)
class Mirror:
    """A Debian archive and the key for its signatures: a key file, a key block, or None for apt's own keys."""

    uri: str
    signed_by: str | None


def host_mirrors(etc_apt: Path = Path("/etc/apt")) -> list[Mirror]:
    """Return the Debian mirrors named in the host's apt sources, in the order apt reads them, each once."""
    found = dict.fromkeys(_all_mirrors(etc_apt))
    return list(found)


def _all_mirrors(etc_apt: Path) -> Iterator[Mirror]:
    parts = etc_apt / "sources.list.d"
    folder = sorted(parts.iterdir()) if parts.is_dir() else []
    for path in [etc_apt / "sources.list", *folder]:
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".list":
            yield from one_line_mirrors(text)
        elif path.suffix == ".sources":
            yield from deb822_mirrors(text)


def one_line_mirrors(text: str) -> Iterator[Mirror]:
    """Yield the Debian mirrors of a one-line-style file: `deb [option=value …] uri suite component …`."""
    for line in text.splitlines():
        match = _ONE_LINE.match(line.split("#", 1)[0].strip())
        if match is None:
            continue
        options = dict(option.split("=", 1) for option in (match["options"] or "").split() if "=" in option)
        yield from _debian_only([match["uri"]], [match["suite"]], match["components"].split(), options.get("signed-by"))


def deb822_mirrors(text: str) -> Iterator[Mirror]:
    """Yield the Debian mirrors of a deb822-style file: stanzas of `Field: value`, continued by indented lines."""
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = _fields(stanza)
        if fields.get("enabled", "yes").lower() in {"no", "false", "0"} or "deb" not in fields.get("types", "").split():
            continue
        yield from _debian_only(
            fields.get("uris", "").split(),
            fields.get("suites", "").split(),
            fields.get("components", "").split(),
            fields.get("signed-by"),
        )


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line[0] in " \t":
            fields[name] += "\n" + line
        else:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def _debian_only(
    uris: Iterable[str], suites: Iterable[str], components: Iterable[str], signed_by: str | None
) -> Iterator[Mirror]:
    """Yield the archives that are Debian's own main archive: by suite, component and the end of the mirror's path."""
    if "main" not in set(components) or not any(_DEBIAN_SUITE.match(suite) for suite in suites):
        return
    for uri in uris:
        if not uri.startswith("cdrom:") and re.search(r"/debian(/\d{8}T\d{6}Z)?/?$", uri):
            yield Mirror(uri, _usable_key(signed_by))


def _usable_key(signed_by: str | None) -> str | None:
    """Return the source's own key if it is usable, else Debian's keyring, else None."""
    if signed_by and "BEGIN PGP" in signed_by:
        return signed_by
    if signed_by and all(Path(path).is_file() for path in re.split(r"[,\s]+", signed_by) if path.startswith("/")):
        return ",".join(path for path in re.split(r"[,\s]+", signed_by) if path.startswith("/")) or _debian_keyring()
    return _debian_keyring()


def _debian_keyring() -> str | None:
    return next((str(path) for path in KEYRINGS if path.is_file()), None)


def deb822_source(mirror: Mirror, suite: str) -> str:
    """Return the apt source (deb822) that fetches `suite` from the mirror with its signature checked."""
    lines = ["Types: deb", f"URIs: {mirror.uri}", f"Suites: {suite}", "Components: main"]
    if mirror.signed_by is not None:
        lines.append(f"Signed-By: {mirror.signed_by}")
    return "\n".join(lines) + "\n"
