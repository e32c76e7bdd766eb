"""Objects (YAML, standard input) against the schemas of the Kubernetes versions that are named.

A line a mistake; exit code 1 when there is one. Kinds that Kubernetes does not have are listed behind '--without'.
"""

import functools
import json
import sys

import yaml
from kubernetes_validate import utils

# One version has some MiB of them, which would be read anew for every object.
utils.schema_contents = functools.cache(utils.schema_contents)
versions = sys.argv[1 : sys.argv.index("--without")]
without = sys.argv[sys.argv.index("--without") + 1 :]
loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
things = [thing for thing in yaml.load_all(sys.stdin, loader) if thing and thing["kind"] not in without]
# Most objects are the same whatever the values are.
things = {json.dumps(thing, sort_keys=True): thing for thing in things}.values()
mistakes = 0
for thing in things:
    for version in versions:
        try:
            utils.validate(thing, version, strict=True)
        except Exception as error:
            mistakes += 1
            what = getattr(error, "message", error)
            where = "/".join(map(str, getattr(error, "path", [])))
            print(f"{version}: {thing['kind']} {thing['metadata']['name']}: {where}: {what}")
sys.exit(mistakes > 0 or not things)
