// Reads {"typed": [document, ...], "personal": [hex, ...]} from its input, and writes
// what ethers and viem answer to each: the digest, what they send to a JSON-RPC signer,
// and the type string, or an error.
import { TypedDataEncoder, hashMessage as ethersMessage } from "ethers/hash";
import { entryPoint08Address, getUserOperationTypedData } from "viem/account-abstraction";
import {
  createWalletClient,
  custom,
  getTypesForEIP712Domain,
  hashMessage as viemMessage,
  hashTypedData,
  serializeTypedData,
} from "viem";

function ethers({ domain, types, primaryType, message, ...others }) {
  if (Object.keys(others).length) throw new Error("unknown members");
  const { EIP712Domain: _, ...structs } = types;
  const encoder = TypedDataEncoder.from(structs);
  if (encoder.primaryType !== primaryType) throw new Error("another primary type");
  return {
    digest: TypedDataEncoder.hash(domain, structs, message),
    payload: JSON.stringify(TypedDataEncoder.getPayload(domain, structs, message)),
    type: encoder.encodeType(primaryType),
  };
}

function viem({ domain, types, primaryType, message }) {
  const digest = hashTypedData({ domain, types, primaryType, message });
  const all = { EIP712Domain: getTypesForEIP712Domain({ domain }), ...types };
  const payload = serializeTypedData({ domain, types: all, primaryType, message });
  return { digest, payload };
}

// What a client sends that has its account in another process.
async function userOperation(operation) {
  let sent;
  const client = createWalletClient({
    account: operation.sender,
    transport: custom({
      async request({ params }) {
        sent = params[1];
        return `0x${"00".repeat(65)}`;
      },
    }),
  });
  const typed = getUserOperationTypedData({
    chainId: 1,
    entryPointAddress: entryPoint08Address,
    userOperation: operation,
  });
  await client.signTypedData(typed);
  return { ...viem(typed), payload: sent };
}

function attempt(library, document) {
  try {
    return library(document);
  } catch (error) {
    return { error: String(error).slice(0, 200) };
  }
}

// JSON.parse would round large integers.
function exact(_, value) {
  const isInteger = value !== null && typeof value === "object" && "$integer" in value;
  return isInteger ? BigInt(value.$integer) : value;
}

let input = "";
for await (const chunk of process.stdin) input += chunk;
const { typed = [], personal = [], operations = [] } = JSON.parse(input, exact);
process.stdout.write(
  JSON.stringify({
    typed: typed.map((each) => ({
      ethers: attempt(ethers, each),
      viem: attempt(viem, each),
    })),
    operations: await Promise.all(operations.map(userOperation)),
    personal: personal.map((hex) => ({
      ethers: ethersMessage(Buffer.from(hex, "hex")),
      viem: viemMessage({ raw: `0x${hex}` }),
    })),
  }),
);
