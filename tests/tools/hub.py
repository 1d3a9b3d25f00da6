"""A hub of Hugging Face that can be written to: repositories are made, large files put, commits taken."""

from __future__ import annotations

import base64
import json
import re
from urllib.parse import urlsplit

from tests.tools.web import Handler, hub


def writable(handler: Handler) -> bool:
    """What ``hub`` answers, and what comes before a commit; files of a commit are there once it is made."""
    path = urlsplit(handler.path).path
    preupload = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/preupload/main", path)
    batch = re.fullmatch(r"/datasets/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path)
    commit = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/commit/main", path)
    folder = handler.server.folder
    if handler.command == "PUT":
        folder.joinpath(".objects").mkdir(exist_ok=True)
        folder.joinpath(".objects", path.rpartition("/")[2]).write_bytes(handler.body)
        return _say(handler, {})
    if path == "/api/repos/create":
        asked = json.loads(handler.body)
        name = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
        (folder / name).mkdir(parents=True, exist_ok=True)
        return _say(handler, {"url": handler.server.url(f"datasets/{name}"), "name": name})
    if path == "/api/validate-yaml":
        return _say(handler, {"errors": [], "warnings": []})
    if preupload:
        names = [one["path"] for one in json.loads(handler.body)["files"]]
        modes = {name: "lfs" if name.endswith(".parquet") else "regular" for name in names}
        files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
        return _say(handler, {"files": files})
    if batch:
        objects = json.loads(handler.body)["objects"]
        for one in objects:
            if not (folder / ".objects" / one["oid"]).exists():
                one["actions"] = {"upload": {"href": handler.server.url(f"objects/{one['oid']}")}}
        return _say(handler, {"objects": objects, "transfer": "basic"})
    if commit:
        for line in handler.body.splitlines():
            _take(handler, commit[1], json.loads(line))
        return _say(handler, {"commitUrl": handler.server.url(f"datasets/{commit[1]}/commit/1"), "commitOid": "1" * 40})
    return hub(handler)


def _take(handler: Handler, repository: str, item: dict[str, object]) -> None:
    value = item["value"]
    assert isinstance(value, dict)
    if item["key"] == "header":
        return
    path = handler.server.folder / repository / value["path"]
    path.parent.mkdir(parents=True, exist_ok=True)
    if item["key"] == "lfsFile":
        path.write_bytes((handler.server.folder / ".objects" / value["oid"]).read_bytes())
    else:
        path.write_bytes(base64.b64decode(value["content"]))


def _say(handler: Handler, content: object) -> bool:
    return handler.say(json.dumps(content).encode(), "application/json")
