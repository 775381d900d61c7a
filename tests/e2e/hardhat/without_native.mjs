// Lets Hardhat run without its native programs, and on Node.js 20:
//
//     node --import ./without_native.mjs program.mjs
//
// EDR simulates a chain, and the analyzer reads Solidity.  A network of the type `http`
// and a project without contracts use neither, but Hardhat imports both.  Their names
// are empty objects here, except those of an EDR that the environment names.
import { readFile } from "node:fs/promises";
import { register } from "node:module";
import { isMainThread } from "node:worker_threads";

// Node.js loads this file again in the thread of the hooks.
if (isMainThread) register(import.meta.url);

const named = process.env.NAPI_RS_NATIVE_LIBRARY_PATH;
const absent = named ? "solidity-analyzer" : "edr|solidity-analyzer";
const isAbsent = new RegExp(`/@nomicfoundation/(${absent})/index\\.js$`);

export async function load(url, context, next) {
  let source;
  if (isAbsent.test(url)) {
    const code = await readFile(new URL(url), "utf8");
    const names = [...code.matchAll(/^module\.exports\.(\w+) =/gm)].map((found) => found[1]);
    source = names.map((name) => `export const ${name} = {};`).join("\n");
  } else if (url.endsWith("/hardhat/dist/src/internal/cli/node-version.js")) {
    source = "export const exitIfNodeVersionNotSupported = () => {};";
  } else return next(url, context);
  return { format: "module", source, shortCircuit: true };
}
