// Whole transactions with ethers and @cuonghx.gu-tech/ethers-aws-kms-signer.
//
//   node bench/kms_signer.cjs KEY_ARN
//
// Reads lines "CONCURRENCY SECONDS" and answers each with transactions a second.  The
// AWS SDK reads endpoint, region and credentials from the environment.
"use strict";

const readline = require("node:readline");
const { AwsKmsSigner } = require("@cuonghx.gu-tech/ethers-aws-kms-signer");
const { Interface } = require("ethers");

const TOKEN = "0x5FbDB2315678afecb367f032d93F642f64180aa3";
const RECIPIENT = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

const erc20 = new Interface(["function transfer(address to, uint256 amount)"]);
const signer = new AwsKmsSigner({
  keyId: process.argv[2],
  region: process.env.AWS_REGION,
  credentials: {
    accessKeyId: process.env.AWS_ACCESS_KEY_ID,
    secretAccessKey: process.env.AWS_SECRET_ACCESS_KEY,
  },
});

let nonce = 0;

function signOne() {
  return signer.signTransaction({
    type: 2,
    chainId: 31337,
    nonce: nonce++,
    maxPriorityFeePerGas: 10n ** 9n,
    maxFeePerGas: 10n ** 11n,
    gasLimit: 80_000,
    to: TOKEN,
    value: 0,
    data: erc20.encodeFunctionData("transfer", [RECIPIENT, 10_000]),
    from: null,
  });
}

async function measure(concurrency, seconds) {
  const started = performance.now();
  const end = started + seconds * 1000;
  let done = 0;
  async function run() {
    do {
      await signOne();
      done += 1;
    } while (performance.now() < end);
  }
  await Promise.all(Array.from({ length: concurrency }, run));
  return done / ((performance.now() - started) / 1000);
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [concurrency, seconds] = line.split(" ").map(Number);
    console.log(await measure(concurrency, seconds));
  }
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
