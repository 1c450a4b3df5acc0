"""Keep secrets out of everything that this project prints, logs and writes."""

import json
import os
import re
from pathlib import Path
from urllib.parse import quote

HIDDEN = "[redacted]"
ALWAYS = ("VLLM_API_KEY", "HF_TOKEN")  # secrets whatever they look like
PLACEHOLDERS = ("", "EMPTY")  # what people set for a server without a key
MIN_SECRET = 8  # characters, and a digit: what other variables hold may be a word
SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)
BEARER = re.compile(r"\b((?:bearer|basic)\s+)(?=\S*[0-9])[\w.~+/-]{8,}=*", re.IGNORECASE)
HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
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
    text = HUB_TOKEN.sub(HIDDEN, BEARER.sub(rf"\1{HIDDEN}", text))
    text = USERINFO.sub(f"{HIDDEN}@", text)
    return CREDENTIAL.sub(rf"\1{HIDDEN}", text)


def _secrets() -> list[str]:
    """Values of environment variables that are named like secrets, and the saved token of the Hub; longest first."""
    named = [value.strip() for name, value in os.environ.items() if SECRET_NAME.search(name)]
    values = [value for value in named if len(value) >= MIN_SECRET and re.search("[0-9]", value)]
    values += [os.environ.get(name, "").strip() for name in ALWAYS]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = os.environ.get("HF_HOME") or cache / "huggingface"
    try:
        token = Path(os.environ.get("HF_TOKEN_PATH") or Path(home, "token")).expanduser()
        values.append(token.read_text(encoding="utf-8").strip())
    except (OSError, ValueError):  # no token is saved
        pass
    return sorted({*values} - {*PLACEHOLDERS}, key=len, reverse=True)
