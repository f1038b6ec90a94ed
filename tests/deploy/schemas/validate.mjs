// Checks objects of Kubernetes extensions, a JSON list on stdin, against the schemas of their makers.
// Usage: node validate.mjs FOLDER, where FOLDER holds node_modules. One line on stderr for each problem; exit code 1.
//
// The schemas come as functions that let unknown keys pass, as Kubernetes would drop them. So each object is handed over
// behind a proxy that notes which keys were looked at: one that nobody asked for is in no schema.
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const PACKAGES = {
  "cert-manager.io": "cert-manager",
  "gateway.envoyproxy.io": "envoy-gateway",
  "gateway.networking.k8s.io": "gateway-api",
  "monitoring.coreos.com": "prometheus-operator",
};

const modules = join(resolve(process.argv[2]), "node_modules", "@kubernetes-models");
let problems = 0;

function problem(object, text) {
  problems += 1;
  console.error(`${object.kind} ${object.metadata?.name}: ${text}`);
}

// Returns the value behind proxies, and a list to which a note of each object below it is added.
function watched(value, path, notes) {
  if (value === null || typeof value !== "object") return value;
  const inner = Array.isArray(value) ? [] : {};
  for (const [key, part] of Object.entries(value)) inner[key] = watched(part, `${path}/${key}`, notes);
  const note = { path, keys: Array.isArray(value) ? [] : Object.keys(value), asked: new Set() };
  notes.push(note);
  return new Proxy(inner, {
    get(target, key, receiver) {
      note.asked.add(key);
      return Reflect.get(target, key, receiver);
    },
  });
}

for (const object of JSON.parse(readFileSync(0, "utf8"))) {
  const [group, version] = object.apiVersion.split("/");
  const model = PACKAGES[group];
  if (model === undefined) {
    problem(object, `no schema for ${object.apiVersion}`);
    continue;
  }
  const notes = [];
  try {
    const path = join(modules, model, group, version, `${object.kind}.js`);
    const module = await import(pathToFileURL(path).href);
    // Not an object of the class: it would be a copy, made by looking at every key.
    module[object.kind].prototype.validate.call(watched(object, "", notes));
  } catch (error) {
    problem(object, error.message);
    continue;
  }
  for (const { path, keys, asked } of notes) {
    for (const key of keys) if (!asked.has(key)) problem(object, `${path}/${key} is in no schema`);
  }
}
process.exit(problems === 0 ? 0 : 1);
