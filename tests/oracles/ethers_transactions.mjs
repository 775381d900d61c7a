// Reads transactions from stdin and writes what ethers makes of them, one JSON value a
// line: `{raw}` is decoded, with its sender if `recover` is true, which takes most of the
// time.  `{fields, signature}` is also built and serialised.

import { createInterface } from "node:readline";
import { Signature, Transaction, toQuantity } from "ethers";

const NUMBERS = [
  "gasPrice", "maxFeePerGas", "maxPriorityFeePerGas", "maxFeePerBlobGas",
];

function describeSignature({ r, s, yParity }) {
  return { yParity: toQuantity(yParity), r: toQuantity(r), s: toQuantity(s) };
}

/** Return the fields of a transaction in the form of JSON-RPC. */
function describe(tx) {
  const fields = {
    type: toQuantity(tx.type),
    chainId: toQuantity(tx.chainId),
    nonce: toQuantity(tx.nonce),
    gas: toQuantity(tx.gasLimit),
    to: tx.to,
    value: toQuantity(tx.value),
    data: tx.data,
  };
  for (const name of NUMBERS) {
    if (tx[name] !== null) { fields[name] = toQuantity(tx[name]); }
  }
  // ethers gives a type 2 transaction a gas price, too.
  if (tx.type > 1) { delete fields.gasPrice; }
  if (tx.type > 0) { fields.accessList = tx.accessList; }
  if (tx.type === 3) { fields.blobVersionedHashes = tx.blobVersionedHashes; }
  if (tx.type === 4) {
    fields.authorizationList = tx.authorizationList.map((each) => ({
      chainId: toQuantity(each.chainId),
      address: each.address,
      nonce: toQuantity(each.nonce),
      ...describeSignature(each.signature),
    }));
  }
  return fields;
}

function decode({ raw, recover }) {
  try {
    const tx = Transaction.from(raw);
    const answer = {
      fields: describe(tx),
      signature: describeSignature(tx.signature),
    };
    return recover ? { ...answer, ...derive(tx) } : answer;
  } catch (error) {
    return { error: String(error.shortMessage ?? error) };
  }
}

function derive(tx) {
  const hashes = { digest: tx.unsignedHash, hash: tx.hash };
  try {
    return { ...hashes, sender: tx.from };
  } catch {
    return { ...hashes, sender: null };
  }
}

function build({ fields, signature }) {
  const { gas, authorizationList, ...same } = fields;
  const tx = Transaction.from({
    ...same,
    type: Number(fields.type),
    nonce: Number(fields.nonce),
    gasLimit: gas,
    ...(authorizationList && {
      authorizationList: authorizationList.map((each) => ({
        ...each,
        signature: Signature.from({
          yParity: Number(each.yParity), r: pad(each.r), s: pad(each.s),
        }),
      })),
    }),
  });
  const digest = tx.unsignedHash;
  tx.signature = signature;
  return { digest, raw: tx.serialized };
}

function pad(quantity) {
  return "0x" + quantity.slice(2).padStart(64, "0");
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const answer = decode(request);
  if (request.fields !== undefined) { answer.built = build(request); }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
