"""Objects (JSON, standard input: a list of [what, object]) against the schemas of the resource definitions in the folder
that is named. As the API server with strict field validation: fields that are not there are refused.

Prints a line an object: what, and 'accepted' or the first mistake.
"""

import glob
import json
import sys

import jsonschema


def strict(schema):
    """Refuses what the definition does not have, and takes null where it may be."""
    if isinstance(schema, list):
        return [strict(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        schema["additionalProperties"] = False
    if schema.get("nullable") is True:
        return {"anyOf": [{"type": "null"}, schema]}
    return schema


kinds = {}
for path in glob.glob(sys.argv[1] + "/*.yaml"):
    spec = json.load(open(path))["spec"]
    schema = strict(spec["versions"][0]["schema"]["openAPIV3Schema"])
    schema["properties"].update(apiVersion={}, kind={}, metadata={})
    kinds[spec["names"]["kind"]] = jsonschema.Draft202012Validator(schema)

for what, thing in json.load(sys.stdin):
    mistakes = sorted(kinds[thing["kind"]].iter_errors(thing), key=lambda error: list(map(str, error.path)))
    found = jsonschema.exceptions.best_match(mistakes)
    print(f"{what}: {'accepted' if found is None else found.json_path + ': ' + found.message}")
