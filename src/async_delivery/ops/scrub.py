"""Takes out of text what must not leave the machine: credentials, tokens, and the names of tenants.

By what it is called (``Authorization: ...``, ``"password": ...``), by its form (``whsec_...``, a JWT, a key block, any
long random word), and by its value where that is known (a variable that is named like a secret). It rather takes too
much: ids of jobs and results stay, other long random words do not. Imports ``domain``.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from async_delivery.domain.tenant import DEFAULT_ORG

GONE = "[removed]"

# As a part of a name: of a variable, a key, a header, a parameter of a URL.
_SUSPECT = (
    r"(?:pass(?:word|wd|phrase)?|pwd|secret|token|credential|authorization|cookie|signature|private|session"
    r"|api[_-]?key|access[_-]?key|account[_-]?key|auth[_-]?key|encryption[_-]?key|signing[_-]?key|client[_-]?key"
    r"|webhook[_-]?key|dsn|jwt|bearer|passfile)"
)
_NAMED = re.compile(_SUSPECT, re.IGNORECASE)
# Named like a secret, and none: how many, how long, or where.
_HARMLESS = re.compile(r"(?:_seconds|_count|_bytes|_total|_path|_file|_url|_at)\Z", re.IGNORECASE)

_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # Headers, also inside JSON and Python's way to write one: everything up to the end of the value.
    (
        re.compile(
            r"""(?is)\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key|x-auth-token|webhook-signature)"""
            r"""(\\{0,8}["']?\s*[:=,]\s*b?\\{0,8}["']?)(?:[^"'\r\n\\]|\\(?:.|\Z))+"""
        ),
        rf"\1\2{GONE}",
    ),
    (re.compile(r"(?i)\b(bearer|basic|digest|negotiate)\s+[A-Za-z0-9+/=._~:-]{6,}"), rf"\1 {GONE}"),
    # User and password of a URL; a password may hold anything but a blank or a slash.
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,30}://)[^\s/\"'<>]*@"), rf"\1{GONE}@"),
    (re.compile(r"whsec_[A-Za-z0-9+/=_-]*"), GONE),
    (re.compile(r"eyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]+){1,4}"), GONE),
    (
        re.compile(
            r"\b(?:sk|pk|rk|ak|key|api|adk?|tok|pat|ghp|gho|ghu|ghs|ghr|github_pat|glpat|xox[abprs]|npm|pypi|hf|dop_v1|shpat|sq0)"
            r"[_-][A-Za-z0-9_-]{10,}|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\bAIza[A-Za-z0-9_-]{20,}"
        ),
        GONE,
    ),
)
# "name": "value", name='value', name=value, ?name=value&, and the same as JSON within a string of JSON; also where
# the end of the value is cut off. Repetitions have a limit: a line of a megabyte must not take minutes.
_BY_NAME = re.compile(
    rf"""(?is)({_SUSPECT}[\w.-]{{0,80}}(?:\\{{0,8}}["'])?\s*[:=]\s*)"""
    r"""(?:\\+"[^"]*(?:"|\Z)|"(?:[^"\\]|\\(?:.|\Z))*(?:"|\Z)|'(?:[^'\\]|\\(?:.|\Z))*(?:'|\Z)|[^\s,;&"'}\])]+)"""
)
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\Z")
_WORD = re.compile(r"[A-Za-z0-9+/=_-]{20,}")
_RUN = 20
_RANDOM_BITS = 3.2
_SHORTEST_VALUE = 4
_SHORTEST_TENANT = 3


def secret_name(name: str) -> bool:
    """True if something of this name is, or may be, a secret."""
    return bool(_NAMED.search(name)) and not _HARMLESS.search(name)


def scrub_text(text: str, values: Iterable[str] = ()) -> str:
    """``text`` without what looks like a secret, and without these values, longest first."""
    for value in sorted({each for each in values if len(each) >= _SHORTEST_VALUE}, key=len, reverse=True):
        text = text.replace(value, GONE)
    text = without_key_blocks(text)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    text = _BY_NAME.sub(_without_value, text)
    return _WORD.sub(_without_token, text)


def without_key_blocks(text: str) -> str:
    """``text`` without PEM blocks, which go over several lines: for what is scrubbed line by line afterwards."""
    return _KEY_BLOCK.sub(GONE, text)


def _without_value(found: re.Match[str]) -> str:
    name = re.sub(r"[\s\"'\\:=]+\Z", "", found[1]).strip("\"'")
    value = found[0][len(found[1]) :]
    if _HARMLESS.search(name) or value.startswith(GONE[:-1]):
        return found[0]
    quote = value[0]
    return f"{found[1]}{quote}{GONE}{quote}" if quote in "\"'" else f"{found[1]}{GONE}"


def _without_token(found: re.Match[str]) -> str:
    word = found[0]
    if _UUID.match(word):
        return word
    if "/" in word and not any(char in word for char in "+="):
        # A path, most likely: judged by its parts.
        return "/".join(GONE if _is_token(part) else part for part in word.split("/"))
    return GONE if _is_token(word) else word


def _is_token(word: str) -> bool:
    """A long run without a break that has letters and digits, or capitals in its midst, and repeats little."""
    if _UUID.match(word):
        return False
    for run in re.split(r"[_-]", word.strip("=")):
        mixed = bool(re.search(r"[0-9]", run)) and bool(re.search(r"[A-Za-z]", run))
        if len(run) >= _RUN and mixed and _bits(run) >= _RANDOM_BITS:
            return True
    # Random words of the URL-safe alphabet have breaks of their own; names of metrics have neither capitals nor this.
    return (
        len(word) >= _RUN
        and all(re.search(kind, word) for kind in ("[0-9]", "[a-z]", "[A-Z]"))
        and _bits(word) >= _RANDOM_BITS + 0.5
        and not re.fullmatch(r"[A-Za-z0-9-]*?[0-9]{8}T[0-9]{6}Z(?:-[0-9]+)?", word)
    )


def _bits(text: str) -> float:
    """Shannon entropy in bits per character."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


class Scrubber:
    """Scrubs everything that goes into one bundle.

    values    secrets that are known by their value
    tenants   names of tenants; each becomes the same pseudonym everywhere in this bundle, and another one in the next
    key       of the pseudonyms: random, and forgotten with this object; None leaves tenants as they are
    """

    def __init__(self, values: Iterable[str], tenants: Iterable[str], key: bytes | None) -> None:
        self._values = tuple(values)
        self._key = key
        known = sorted({each for each in tenants if len(each) >= _SHORTEST_TENANT}, key=len, reverse=True)
        names = "|".join(map(re.escape, known))
        # As a whole word of a tenant's alphabet, so that `acme` does not change `acme-prod` or `acmeism`.
        self._tenants = (
            re.compile(rf"(?<![A-Za-z0-9_.:-])(?:{names})(?![A-Za-z0-9_-])") if names and key else None
        )

    def tenant(self, org_id: str) -> str:
        """The tenant as it is shown in this bundle."""
        if self._key is None or org_id == DEFAULT_ORG:
            return org_id
        return f"tenant-{hmac.new(self._key, org_id.encode(), hashlib.sha256).hexdigest()[:12]}"

    def text(self, text: str) -> str:
        """``text`` without secrets and tenants."""
        text = scrub_text(text, self._values)
        return self._tenants.sub(lambda found: self.tenant(found[0]), text) if self._tenants else text

    def value(self, value: Any) -> Any:
        """A JSON value without secrets and tenants, in its keys as well."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        if isinstance(value, Mapping):
            return {self.text(str(name)): self._member(str(name), each) for name, each in value.items()}
        return value

    def _member(self, name: str, value: Any) -> Any:
        if secret_name(name) and not isinstance(value, bool) and value not in (None, ""):
            return GONE
        if name in TENANT_FIELDS and isinstance(value, str) and value:
            return self.tenant(value)
        if name in TENANT_MAPS and isinstance(value, Mapping):
            return {self.tenant(str(org)): self.value(each) for org, each in value.items()}
        return self.value(value)


# Where tenants are named in artefacts and log lines.
TENANT_FIELDS = frozenset({"org_id", "tenant", "tenant_id", "org", "x_org_id", "x_tenant_id"})
TENANT_MAPS = frozenset({"per_tenant"})


def named_tenants(value: Any, found: Callable[[str], object]) -> None:
    """Tell ``found`` every tenant that a JSON value names in a field of its own."""
    if isinstance(value, list):
        for each in value:
            named_tenants(each, found)
    elif isinstance(value, dict):
        for name, each in value.items():
            if name in TENANT_FIELDS and isinstance(each, str):
                found(each)
            elif name in TENANT_MAPS and isinstance(each, dict):
                for org in each:
                    found(org)
            else:
                named_tenants(each, found)
