"""Keep secrets out of everything that this project prints, logs and writes."""

import json
import os
import re
from pathlib import Path
from urllib.parse import quote

HIDDEN = "[redacted]"
MIN_SECRET = 8  # characters; a shorter value, as the usual "EMPTY" of a server without a key, may be a word
SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
BEARER = re.compile(r"\b(bearer\s+)[\w.~+/-]{8,}=*", re.IGNORECASE)
USERINFO = re.compile(r"(?<=://)[^/?#\s@\"'<>]+@")
CREDENTIAL = re.compile(
    r"(?<=[?&;#])"
    r"((?:[\w.-]*(?:token|secret|password|passwd|signature|credentials?|api[_-]?key|access[_-]?key(?:[_-]?id)?)"
    r"|key|sig|auth|x-(?:amz|goog)-[\w-]+|googleaccessid)=)"
    r"[^&#;\s\"'<>\\]+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return the text without the secrets of this process's environment and without credentials in URLs and headers."""
    for secret in _secrets():
        for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe="")):
            text = text.replace(form, HIDDEN)
    text = BEARER.sub(rf"\1{HIDDEN}", text)
    text = USERINFO.sub(f"{HIDDEN}@", text)
    return CREDENTIAL.sub(rf"\1{HIDDEN}", text)


def _secrets() -> list[str]:
    """Values of environment variables that are named like secrets, and the saved token of the Hub; longest first."""
    values = [value.strip() for name, value in os.environ.items() if SECRET_NAME.search(name)]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = os.environ.get("HF_HOME") or cache / "huggingface"
    try:
        token = Path(os.environ.get("HF_TOKEN_PATH") or Path(home, "token")).expanduser()
        values.append(token.read_text(encoding="utf-8").strip())
    except (OSError, ValueError):  # nobody has logged in
        pass
    return sorted({v for v in values if len(v) >= MIN_SECRET and not v.isalpha()}, key=len, reverse=True)
