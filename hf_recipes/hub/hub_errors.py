"""Explain the errors of the Hub and of the network."""

import yaml

from ..errors import first_line


def http_status(error: BaseException) -> int:
    """Return the status of the answer that is the error or its cause.

    Without an answer it is 500 for trouble that may pass, and 400 for invalid content, which another try does not
    change.
    """
    for source in (error, error.__cause__):
        answer = getattr(source, "response", None)
        if answer is not None:
            return int(answer.status_code)
    lasting = (ValueError, TypeError, LookupError, AttributeError, RecursionError, yaml.YAMLError)
    return 400 if isinstance(error, lasting) else 500


def explain_error(error: Exception) -> str:
    """Return what went wrong at the Hub, and the fix, in a line."""
    from huggingface_hub import errors

    causes = [cause for cause in (error, error.__cause__) if cause]
    reason = ", ".join(dict.fromkeys(first_line(cause).rstrip(".") for cause in causes))
    match error:
        case errors.HFValidationError():
            return f"A repo's name must be owner/name. {reason}."
        case errors.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set. Unset it."
        case errors.RevisionNotFoundError():
            return "The repo has no such branch, tag or commit."
        case errors.RepositoryNotFoundError():
            return f"The repo does not exist, or requires a token that may read it. Try hf auth login. {reason}."
    status = http_status(error)
    if status in (401, 403):
        return f"{reason}. Try hf auth login with a token that may write there, or another repo."
    return f"{reason}. Try again." if status >= 500 or status == 429 else f"{reason}."
