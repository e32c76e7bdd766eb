// Objects (JSON, standard input: a list) against the schemas of cert-manager and of the Prometheus operator, which
// @kubernetes-models has as functions. They pass over fields that they do not know, and the API server does not: a
// field that the function never asked for is one that it does not know.
//
// Prints a line a mistake.
import { readFileSync } from "node:fs";

const packages = {
  "cert-manager.io/v1": ["cert-manager", "ComGithubCertManagerCertManagerPkgApisCertmanagerV1"],
  "monitoring.coreos.com/v1": [
    "prometheus-operator",
    "ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1",
  ],
};

function watched(value, path, asked) {
  if (value === null || typeof value !== "object") return value;
  return new Proxy(value, {
    get(target, name) {
      if (typeof name === "string" && Object.hasOwn(target, name)) asked.add(`${path}/${name}`);
      return watched(target[name], `${path}/${String(name)}`, asked);
    },
  });
}

function* paths(value, path) {
  if (value === null || typeof value !== "object") return;
  for (const [name, inner] of Object.entries(value)) {
    yield `${path}/${name}`;
    yield* paths(inner, `${path}/${name}`);
  }
}

for (const object of JSON.parse(readFileSync(0, "utf8"))) {
  const [name, prefix] = packages[object.apiVersion];
  const file = `${process.cwd()}/node_modules/@kubernetes-models/${name}/_schemas/${prefix}${object.kind}.js`;
  const { validate } = await import(file);
  const asked = new Set();
  const what = `${object.kind} ${object.metadata.name}`;
  if (!validate(watched(object, "", asked))) {
    for (const error of validate.errors) console.log(`${what}: ${error.instancePath}: ${error.message ?? error.keyword}`);
  }
  const unknown = [...paths(object, "")].filter((path) => !asked.has(path));
  for (const path of unknown) console.log(`${what}: ${path}: no such field`);
}
