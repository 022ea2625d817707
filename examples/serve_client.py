"""Ask a running service why two pictures match, with the standard library alone.

python -m engine.serve &
python examples/serve_client.py query.jpg match.jpg --out why.png
"""

import argparse
import base64
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("query", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", help="if the service has an API key file")
    parser.add_argument("--deadline", type=float, default=1.0, help="seconds")
    parser.add_argument("--out", type=Path, default=Path("why.png"))
    options = parser.parse_args()

    def ask(path: str, body: dict[str, Any] | None = None) -> bytes:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {options.key}"} if options.key else {})
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(options.url + path, data, headers)) as answer:
                content: bytes = answer.read()
        except urllib.error.HTTPError as error:
            sys.exit(f"{error.code}: {json.load(error)['error']}")
        except urllib.error.URLError as error:
            sys.exit(f"no service at {options.url} yet: {error.reason}")
        return content

    (name,) = json.loads(ask("/v1/models"))["models"]
    query, reference = ({"b64": base64.b64encode(p.read_bytes()).decode()} for p in (options.query, options.reference))
    instance = {"query": query, "references": [reference], "deadline": options.deadline, "top": 5}
    ((found,),) = json.loads(ask(f"/v1/models/{quote(name, safe='')}:explain", {"instances": [instance]}))["explanations"]
    print(f"similarity {found['similarity']:.3f}, after {found['passes']} passes")
    for attribute in found["attributes"]:
        print(f"  {attribute['name']} {attribute['score']:.2f}")
    options.out.write_bytes(ask(found["files"]["png"]))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
