"""A Hub in miniature for the stock clients: repos with commits, branches and pull requests, LFS, in memory.

    python tests/hub_server.py PORT

It can be told to misbehave: POST /faults with ["blind"] (README.md cannot be read), or a list of "drop" (commit, lose
the answer), "race" (let somebody else commit first) or "refuse" (answer 500 without committing), each of which is used
up by one commit. GET /log: what was asked.
"""

import base64
import hashlib
import json
import sys
from urllib.parse import unquote

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

REPOS: dict[str, "Repo"] = {}
OBJECTS: dict[str, bytes] = {}  # LFS, by sha256
FAULTS: list[str] = []
LOG: list[str] = []
KINDS = ("models", "datasets", "spaces")


class Repo:
    def __init__(self):
        self.commits = {}
        self.refs = {}
        self.pulls = 0
        self.commit("main", {".gitattributes": b"*.parquet filter=lfs\n"}, "initial commit")

    def commit(self, ref, files, title):
        oid = hashlib.sha256(f"{len(self.commits)}{title}{ref}".encode()).hexdigest()[:40]
        self.commits[oid] = {"files": files, "title": title, "parent": self.refs.get(ref)}
        self.refs[ref] = oid
        return oid

    def find(self, revision):
        oid = self.refs.get(revision, revision)
        return oid if oid in self.commits else None


def fail(status, code, message):
    return JSONResponse({"error": message}, status, headers={"X-Error-Code": code, "X-Error-Message": message})


def is_lfs(path):
    return path.endswith(".parquet")


def git_sha(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def entry(path, content):
    found = {"type": "file", "path": path, "size": len(content), "oid": git_sha(content)}
    if is_lfs(path):
        sha = hashlib.sha256(content).hexdigest()
        found["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 130, "sha256": sha}
    return found


async def handle(request: Request) -> Response:  # noqa: PLR0911
    raw = request.scope["raw_path"].decode().split("?")[0]
    parts = [unquote(part) for part in raw.strip("/").split("/")]
    LOG.append(f"{request.method} {raw}")
    body = await request.body()
    if parts == ["log"]:
        return JSONResponse(LOG)
    if parts == ["faults"]:
        FAULTS[:] = json.loads(body)
        return JSONResponse({})
    if parts == ["api", "whoami-v2"]:
        return JSONResponse({"name": "me", "type": "user", "orgs": [], "auth": {}})
    if parts == ["api", "validate-yaml"]:
        return JSONResponse({"errors": [], "warnings": []})
    if parts[:2] == ["api", "repos"]:
        return create(json.loads(body))
    if parts[0] == "objects":
        if request.method == "PUT":
            OBJECTS[parts[1]] = body
        return JSONResponse({})
    if parts[0] == "api":
        return await api(request, parts[1], "/".join(parts[2:4]), parts[4:], body)
    kind = parts.pop(0) if parts[0] in KINDS else "models"
    if parts[1].endswith(".git"):
        return lfs(json.loads(body), request)
    return resolve(request, kind, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))


def create(asked):
    kind = f"{asked.get('type') or 'model'}s"
    name = asked["name"] if "/" in asked["name"] else f"{asked.get('organization') or 'me'}/{asked['name']}"
    address = f"{{host}}/{name}" if kind == "models" else f"{{host}}/{kind}/{name}"
    address = address.replace("{host}", HOST)
    if f"{kind}/{name}" in REPOS:
        return JSONResponse({"error": "exists", "url": address}, 409)
    REPOS[f"{kind}/{name}"] = Repo()
    return JSONResponse({"url": address, "name": name, "id": name})


def lfs(asked, request):
    found = []
    for one in asked["objects"]:
        actions = {} if one["oid"] in OBJECTS else {"actions": {"upload": {"href": f"{HOST}/objects/{one['oid']}"}}}
        found.append({**one, **actions})
    return JSONResponse({"transfer": "basic", "objects": found}, media_type="application/vnd.git-lfs+json")


async def api(request, kind, name, rest, body):  # noqa: PLR0911
    repo = REPOS.get(f"{kind}/{name}")
    if repo is None:
        return fail(404, "RepoNotFound", "Repository not found")
    what = rest[0] if rest else "revision"
    if what == "branch":
        if rest[1] in repo.refs:
            return JSONResponse({"error": "Reference already exists"}, 409)
        repo.refs[rest[1]] = repo.refs["main"]
        return JSONResponse({})
    if what == "refs":
        branches = [
            {"name": n, "ref": f"refs/heads/{n}", "targetCommit": o} for n, o in repo.refs.items() if "/" not in n
        ]
        pulls = [{"name": n, "ref": n, "targetCommit": o} for n, o in repo.refs.items() if n.startswith("refs/pr/")]
        return JSONResponse({"branches": branches, "converts": [], "tags": [], "pullRequests": pulls})
    revision = rest[1] if len(rest) > 1 else "main"
    oid = repo.find(revision)
    if oid is None:
        return fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    files = repo.commits[oid]["files"]
    if what == "revision":
        siblings = [{"rfilename": path} for path in sorted(files)]
        return JSONResponse(
            {"id": name, "sha": oid, "private": False, "siblings": siblings, "tags": [], "downloads": 0}
        )
    if what == "tree":
        return tree(files, "/".join(rest[2:]), request.query_params.get("recursive") in ("true", "True", "1"))
    if what == "paths-info":
        form = await request.form()
        asked = form.getlist("paths")
        folders = {path for path in asked if any(name.startswith(f"{path}/") for name in files)}
        found = [entry(path, files[path]) for path in asked if path in files]
        return JSONResponse(found + [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders])
    if what == "preupload":
        asked = json.loads(body)["files"]
        found = []
        for one in asked:
            content = files.get(one["path"])
            oid_ = (
                None if content is None else entry(one["path"], content).get("lfs", {}).get("oid") or git_sha(content)
            )
            mode = "lfs" if is_lfs(one["path"]) else "regular"
            found.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid_})
        return JSONResponse({"files": found})
    if what == "commit":
        return commit(repo, kind, name, revision, body, request.query_params.get("create_pr") in ("1", "true"))
    return fail(404, "EntryNotFound", f"no such route: {what}")


def commit(repo, kind, name, revision, body, create_pr):
    fault = FAULTS.pop(0) if FAULTS else None
    if fault == "refuse":
        return fail(500, "Internal", "the server has a bad day")
    if fault == "race":
        files = dict(repo.commits[repo.refs[revision]]["files"])
        repo.commit(revision, {**files, "somebody.txt": str(len(repo.commits)).encode()}, "somebody else")
    lines = [json.loads(line) for line in body.splitlines() if line.strip()]
    header = lines[0]["value"]
    tip = repo.refs[revision]
    if header.get("parentCommit") not in (None, tip):
        return fail(412, "PreconditionFailed", "A commit has happened since. Please refresh and try again.")
    files = dict(repo.commits[tip]["files"])
    for line in lines[1:]:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = OBJECTS[value["oid"]]
        elif line["key"] == "deletedFile":
            files.pop(value["path"])
    ref, number = revision, None
    if create_pr:
        repo.pulls += 1
        number = repo.pulls
        ref = f"refs/pr/{number}"
        repo.refs[ref] = tip
    oid = repo.commit(ref, files, header["summary"])
    if fault == "drop":
        return fail(502, "BadGateway", "the answer is lost")
    address = f"{HOST}/{kind}/{name}"
    pull = {"pullRequestUrl": f"{address}/discussions/{number}"} if number else {}
    return JSONResponse({"success": True, "commitOid": oid, "commitUrl": f"{address}/commit/{oid}", **pull})


def tree(files, folder, recursive):
    inside = {path: content for path, content in files.items() if not folder or path.startswith(f"{folder}/")}
    if folder and not inside:
        return fail(404, "EntryNotFound", "no such folder")
    found, folders = [], set()
    for path, content in sorted(inside.items()):
        rest = path[len(folder) + 1 if folder else 0 :].split("/")
        for depth in range(1, len(rest)):
            above = "/".join([*([folder] if folder else []), *rest[:depth]])
            if above not in folders and (recursive or depth == 1):
                folders.add(above)
                found.append({"type": "directory", "path": above, "oid": "0" * 40, "size": 0})
        if recursive or len(rest) == 1:
            found.append(entry(path, content))
    return JSONResponse(found)


def resolve(request, kind, name, revision, path):  # noqa: PLR0911
    repo = REPOS.get(f"{kind}/{name}")
    if repo is None:
        return fail(404, "RepoNotFound", "Repository not found")
    oid = repo.find(revision)
    if oid is None:
        return fail(404, "RevisionNotFound", "Invalid rev id")
    content = repo.commits[oid]["files"].get(path)
    if FAULTS[:1] == ["blind"] and path == "README.md":
        return fail(503, "Unavailable", "try again later")
    if content is None:
        return fail(404, "EntryNotFound", "Entry not found")
    about = entry(path, content)
    tag = about["lfs"]["oid"] if "lfs" in about else about["oid"]
    headers = {"X-Repo-Commit": oid, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
    if "lfs" in about:
        headers |= {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(content))}
    if request.method == "HEAD":
        return Response(b"", headers={**headers, "Content-Length": str(len(content))})
    if asked := request.headers.get("range"):
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(content) - 1), len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return Response(content[start : end + 1], 206, headers=headers)
    return Response(content, headers=headers)


async def app(scope, receive, send):
    if scope["type"] == "http":
        await (await handle(Request(scope, receive)))(scope, receive, send)
    else:
        await Starlette()(scope, receive, send)


if __name__ == "__main__":
    HOST = f"http://127.0.0.1:{sys.argv[1]}"
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
