"""The packages by licence."""

import json
from collections import defaultdict


def credits(args):
    """The packages of the manifest by licence, as Markdown for the model card."""
    manifest = json.loads((args.work / "manifest.json").read_text())
    groups = defaultdict(list)
    for name, package in manifest["packages"].items():
        groups[package["licence"]].append(f"{name} {package['version']}".strip())
    for licence, names in sorted(groups.items(), key=lambda item: -len(item[1])):
        print(f"- **{licence}** ({len(names)}): {', '.join(sorted(names))}")
