// Lets Hardhat run without EDR, the native program that simulates a chain:
//
//     node --import ./without_edr.mjs program.mjs
//
// A network of the type `http` does not use it, but Hardhat imports it.  Its names are
// empty objects here.
import { readFile } from "node:fs/promises";
import { register } from "node:module";
import { isMainThread } from "node:worker_threads";

// Node.js loads this file again in the thread of the hooks.
if (isMainThread) register(import.meta.url);

export async function load(url, context, next) {
  if (!url.endsWith("/@nomicfoundation/edr/index.js")) return next(url, context);
  const code = await readFile(new URL(url), "utf8");
  const names = [...code.matchAll(/^module\.exports\.(\w+) =/gm)].map((found) => found[1]);
  const source = names.map((name) => `export const ${name} = {};`).join("\n");
  return { format: "module", source, shortCircuit: true };
}
