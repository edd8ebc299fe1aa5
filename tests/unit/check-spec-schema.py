#!/usr/bin/env python3
"""check-spec-schema.py SOURCE_DIR: docs/spec.schema.json against the cases of specs, of which unit-spec knows that the program
accepts or refuses them: what is accepted is valid, and what is refused is not, but for what a schema cannot say.
"""
import glob
import json
import os
import re
import sys
import textwrap

from jsonschema import Draft202012Validator

# Refused by the program alone, and why.
BEYOND_SCHEMA = {
    "duplicate-boot-index": "compares items",
    "duplicate-key": "is gone once JSON is decoded",
    "duplicate-port": "compares items",
    "encryption-empty-drive": "compares fields",
    "encryption-missing": "compares fields",
    "encryption-raw": "compares fields",
    "password-without-vnc": "compares fields",
    "group-alone": "compares fields",
    "limits-memory": "compares fields",
    "forward-injection": "the schema takes any string for an address",
    "nul": "the schema takes any string",
    "password-nobody": "compares fields",
    "tls-file": "compares fields",
    "tls-username": "compares fields",
    "url-aio": "compares fields",
    "url-nul": "the schema looks at a URL's beginning",
    "url-password": "the schema looks at a URL's beginning",
    "url-writable": "compares fields",
}


def load(path):
    """The document; None where it is no JSON."""
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except ValueError:
        return None


def defaults(schema, path=""):
    """Every (path, schema of a field, its default)."""
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        if "default" in field:
            yield here, field, field["default"]
        yield from defaults(field, here)
        yield from defaults(field.get("items", {}), here + "[]")


def check(source):
    schema = load(os.path.join(source, "docs/spec.schema.json"))
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    refused_as_wished = set()
    counts = {"good": 0, "bad": 0}

    for path in sorted(glob.glob(os.path.join(source, "tests/unit/spec-cases/*/*.json"))):
        kind, name = path.split(os.sep)[-2], os.path.basename(path)[:-len(".json")]
        document = load(path)
        errors = [f"{e.json_path}: {e.message}" for e in validator.iter_errors(document)] if document is not None else ["no JSON"]
        counts[kind] += 1
        if kind == "good" and errors:
            yield f"{path} is accepted, but not valid: {errors}"
        if kind == "bad" and not errors:
            if name not in BEYOND_SCHEMA:
                yield f"{path} is refused, but valid"
            refused_as_wished.add(name)
    if min(counts.values()) < 9:
        yield f"hardly any cases: {counts}"
    for name in sorted(set(BEYOND_SCHEMA) - refused_as_wished):
        yield f"{name} is no exception any more"

    for path, field, value in defaults(schema):
        resolver = dict(field, **{"$defs": schema.get("$defs", {})})
        for error in Draft202012Validator(resolver).iter_errors(value):
            yield f"the default of {path} is not valid: {error.message}"

    with open(os.path.join(source, "docs/spec.md"), encoding="utf-8") as f:
        examples = re.findall(r"^    \{\n(?:    .*\n)*?    \}\n", f.read(), re.MULTILINE)
    if not examples:
        yield "no example in docs/spec.md"
    for example in examples:
        for error in validator.iter_errors(json.loads(textwrap.dedent(example))):
            yield f"an example in docs/spec.md is not valid: {error.json_path}: {error.message}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    failures = list(check(sys.argv[1]))
    print("\n".join(failures))
    sys.exit(1 if failures else 0)
