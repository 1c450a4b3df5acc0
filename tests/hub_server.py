"""A Hub in miniature for the stock clients: repos with commits, branches and pull requests, LFS, in memory.

    python tests/hub_server.py PORT [SECONDS]

SECONDS: how long each answer takes at least, as on a network.
It can be told to misbehave: POST /faults with what the next requests to a route (create, revision, preupload, batch,
put, commit, read) meet, as {"commit": ["drop", "503"]}; each is used up by one request. A status, as "503" or "429";
"cut": the connection ends before anything is done; "drop": after it is done; "stall": nothing is done for a minute;
"late": it is done, and no answer for a minute; "race": somebody else commits first. GET /log: what was asked.
GET /state/KIND/OWNER/NAME: the files at main, by hash, with the repo's name left out.

Whose token is hf_secret is `me`; hf_read may read only, hf_other is `other`, no other token is known, and who has none
reads what is public.
"""

import base64
import hashlib
import json
import sys
from fnmatch import fnmatch
from urllib.parse import unquote

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

REPOS: dict[str, "Repo"] = {}
OBJECTS: dict[str, bytes] = {}  # LFS, by repo and sha256
FAULTS: dict[str, list[str]] = {}
TOKENS = {"hf_secret": ("me", "write"), "hf_read": ("me", "read"), "hf_other": ("other", "write")}
LOG: list[str] = []
KINDS = ("models", "datasets", "spaces")
PAGE = 7  # entries of a tree in one answer


class Repo:
    def __init__(self, private=False):
        self.commits = {}
        self.refs = {}
        self.pulls = 0
        self.private = private
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
    return path.endswith((".parquet", ".safetensors"))


def git_sha(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def entry(path, content):
    found = {"type": "file", "path": path, "size": len(content), "oid": git_sha(content)}
    if is_lfs(path):
        sha = hashlib.sha256(content).hexdigest()
        found["lfs"] = {"oid": sha, "size": len(content), "pointerSize": 130, "sha256": sha}
    return found


def route(method, parts):
    """The name by which a request can be given faults."""
    if parts[:3] == ["api", "repos", "create"]:
        return "create"
    if parts[0] == "objects":
        return "put"
    if parts[0] == "api":
        return parts[4] if len(parts) > 4 else "info"
    return "batch" if parts[-1] == "batch" else "read" if "README.md" in parts else method


async def handle(request: Request) -> Response | None:
    """The answer; none where the connection is to be cut."""
    raw = request.scope["raw_path"].decode().split("?")[0]
    parts = [unquote(part) for part in raw.strip("/").split("/")]
    body = await request.body()
    LOG.append(f"{request.method} {raw} {len(body)}")
    if parts == ["log"]:
        return JSONResponse(LOG)
    if parts == ["faults"]:
        FAULTS.clear()
        FAULTS.update(json.loads(body))
        return JSONResponse({})
    if parts[0] == "state":
        repo, name = REPOS.get("/".join(parts[1:])), "/".join(parts[2:]).encode()
        files = repo.commits[repo.refs["main"]]["files"] if repo else {}
        return JSONResponse({path: git_sha(content.replace(name, b"")) for path, content in files.items()})
    waiting = FAULTS.get(route(request.method, parts))
    fault = waiting.pop(0) if waiting else None
    if fault == "stall":
        await anyio.sleep(60)
    if fault == "cut":
        return None
    if fault and fault.isdigit():
        headers = {"Retry-After": "1"} if fault == "429" else {}
        return JSONResponse({"error": "the server has a bad day"}, int(fault), headers=headers)
    answer = await serve(request, parts, body, fault)
    if fault == "late":
        await anyio.sleep(60)
    return None if fault == "drop" else answer


async def serve(request, parts, body, fault):  # noqa: PLR0911, PLR0912
    if parts[0] == "objects":  # signed addresses: they need no token
        if request.method == "PUT":
            OBJECTS["/".join(parts[1:])] = body
        return JSONResponse({})
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    reads = request.method in ("GET", "HEAD") or "paths-info" in parts
    if token not in TOKENS and (token or not reads or parts == ["api", "whoami-v2"]):
        return fail(401, "", "Invalid username or password.")
    user, role = TOKENS.get(token, ("", "read"))  # who has none sees what is public
    if parts == ["api", "whoami-v2"]:
        return JSONResponse({"name": user, "type": "user", "orgs": [], "auth": {}})
    if parts == ["api", "validate-yaml"]:
        return JSONResponse({"errors": [], "warnings": []})
    if parts == ["api", "datasets"]:
        return list_datasets(request.query_params["filter"])
    if parts[:2] == ["api", "repos"]:
        return create(json.loads(body), user, role)
    if parts[0] == "api":
        kind, name, rest = parts[1], "/".join(parts[2:4]), parts[4:]
    else:
        kind = parts.pop(0) if parts[0] in KINDS else "models"
        name, rest = f"{parts[0]}/{parts[1].removesuffix('.git')}", parts[2:]
    repo, mine = REPOS.get(f"{kind}/{name}"), name.startswith(f"{user}/")
    if repo is None or (repo.private and not mine):
        return fail(404, "RepoNotFound", "Repository not found")
    pull = request.query_params.get("create_pr") in ("1", "true")
    if rest and (rest[0] in ("commit", "branch") or rest[-1] == "write") and (role == "read" or not (mine or pull)):
        return fail(403, "", "Forbidden: this token has no write rights to the repository")
    if parts[0] == "api":
        return await api(request, repo, kind, name, rest, body, pull, fault)
    if "batch" in rest:
        return lfs(name, json.loads(body))
    return resolve(request, repo, rest[1], "/".join(rest[2:]))


def list_datasets(tag):
    names = []
    for name, repo in REPOS.items():
        card = repo.commits[repo.refs["main"]]["files"].get("README.md", b"")
        if name.startswith("datasets/") and not repo.private and f"- {tag}".encode() in card:
            names.append({"id": name.removeprefix("datasets/"), "tags": [tag]})
    return JSONResponse(names)


def page(kind, name):
    return f"{HOST}/{name}" if kind == "models" else f"{HOST}/{kind}/{name}"


def create(asked, user, role):
    kind = f"{asked.get('type') or 'model'}s"
    name = asked["name"] if "/" in asked["name"] else f"{asked.get('organization') or user}/{asked['name']}"
    if role == "read" or not name.startswith(f"{user}/"):
        return fail(403, "", "Forbidden: no right to create a repository here")
    address = page(kind, name)
    if f"{kind}/{name}" in REPOS:
        return JSONResponse({"error": "exists", "url": address}, 409)
    REPOS[f"{kind}/{name}"] = Repo(asked.get("private") or asked.get("visibility") == "private")
    return JSONResponse({"url": address, "name": name, "id": name})


def lfs(name, asked):
    found = []
    for one in asked["objects"]:
        key = f"{name}/{one['oid']}"
        actions = {} if key in OBJECTS else {"actions": {"upload": {"href": f"{HOST}/objects/{key}"}}}
        found.append({**one, **actions})
    return JSONResponse({"transfer": "basic", "objects": found}, media_type="application/vnd.git-lfs+json")


async def api(request, repo, kind, name, rest, body, pull, fault):  # noqa: PLR0911, PLR0912
    what = rest[0] if rest else "revision"
    if what == "auth-check":
        return JSONResponse({})
    if what == "discussions":
        common = {"author": {"name": "me"}, "createdAt": "2026-01-01T00:00:00.000Z", "isPullRequest": True}
        about = {"title": "x", "repo": {"name": name, "type": kind[:-1]}, **common}
        found = [{"num": n + 1, "status": "open", **about} for n in range(repo.pulls)]
        return JSONResponse({"discussions": found, "count": len(found), "start": 0})
    if what == "branch":
        if request.method == "DELETE":
            del repo.refs[rest[1]]
            return JSONResponse({})
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
        siblings = [{"rfilename": path, "size": len(files[path])} for path in sorted(files)]
        return JSONResponse(
            {"id": name, "sha": oid, "private": repo.private, "siblings": siblings, "tags": [], "downloads": 0}
        )
    if what == "tree":
        return tree(request, files, "/".join(rest[2:]))
    if what == "paths-info":
        form = await request.form()
        asked = form.getlist("paths")
        folders = {path for path in asked if any(name.startswith(f"{path}/") for name in files)}
        found = [entry(path, files[path]) for path in asked if path in files]
        return JSONResponse(found + [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders])
    if what == "preupload":
        asked = json.loads(body)
        ignored = (asked.get("gitIgnore") or files.get(".gitignore", b"").decode()).splitlines()
        found = []
        for one in asked["files"]:
            content = files.get(one["path"])
            oid_ = (
                None if content is None else entry(one["path"], content).get("lfs", {}).get("oid") or git_sha(content)
            )
            skip = any(fnmatch(one["path"], pattern) for pattern in ignored)
            mode = "lfs" if is_lfs(one["path"]) else "regular"
            found.append({"path": one["path"], "uploadMode": mode, "shouldIgnore": skip, "oid": oid_})
        return JSONResponse({"files": found})
    if what == "commit":
        return commit(repo, kind, name, revision, body, pull, fault)
    return fail(404, "EntryNotFound", f"no such route: {what}")


def commit(repo, kind, name, revision, body, create_pr, fault):
    if fault == "race":
        files = dict(repo.commits[repo.refs[revision]]["files"])
        repo.commit(revision, {**files, "SOMEBODY": str(len(repo.commits)).encode()}, "somebody else")
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
            files[value["path"]] = OBJECTS[f"{name}/{value['oid']}"]
        elif line["key"] == "deletedFile":
            files.pop(value["path"])
    ref, number = revision, None
    if create_pr:
        repo.pulls += 1
        number = repo.pulls
        ref = f"refs/pr/{number}"
        repo.refs[ref] = tip
    oid = repo.commit(ref, files, header["summary"])
    address = page(kind, name)
    pull = {"pullRequestUrl": f"{address}/discussions/{number}"} if number else {}
    return JSONResponse({"success": True, "commitOid": oid, "commitUrl": f"{address}/commit/{oid}", **pull})


def tree(request, files, folder):
    recursive = request.query_params.get("recursive") in ("true", "True", "1")
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
    start = int(request.query_params.get("cursor", 0))
    following = request.url.include_query_params(cursor=start + PAGE)
    more = {"Link": f'<{following}>; rel="next"'} if start + PAGE < len(found) else {}
    return JSONResponse(found[start : start + PAGE], headers=more)


def resolve(request, repo, revision, path):
    oid = repo.find(revision)
    if oid is None:
        return fail(404, "RevisionNotFound", "Invalid rev id")
    content = repo.commits[oid]["files"].get(path)
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
    if scope["type"] != "http":
        return await Starlette()(scope, receive, send)
    await anyio.sleep(DELAY)
    answer = await handle(Request(scope, receive))
    if answer is not None:
        return await answer(scope, receive, send)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
    return None  # fewer bytes than were promised: the connection is closed


if __name__ == "__main__":
    HOST = f"http://127.0.0.1:{sys.argv[1]}"
    DELAY = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical")
