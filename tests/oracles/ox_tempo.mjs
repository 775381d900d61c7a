// Reads transactions of type 0x76 from stdin, one JSON value a line, and writes what ox
// makes of each: the digest to sign, the signed bytes, and their fields.

import { createInterface } from "node:readline";
import { TxEnvelopeTempo } from "ox/tempo";

const NUMBERS = ["nonce", "gas", "maxFeePerGas", "maxPriorityFeePerGas"];

for await (const line of createInterface({ input: process.stdin })) {
  const { signature, call, ...given } = JSON.parse(line);
  for (const name of NUMBERS) { given[name] = BigInt(given[name]); }
  const envelope = TxEnvelopeTempo.from({
    ...given, calls: [{ ...call, value: BigInt(call.value) }],
  });
  const { r, s, yParity } = signature;
  const raw = TxEnvelopeTempo.serialize(envelope, {
    signature: { r: BigInt(r), s: BigInt(s), yParity },
  });
  console.log(JSON.stringify({
    digest: TxEnvelopeTempo.getSignPayload(envelope), raw,
  }));
}
