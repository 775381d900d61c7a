/** Against a real service, at HOTWALLET_URL. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { ApiError, HotWallet, type RefundRequest } from "../src/index.js";

const url = process.env["HOTWALLET_URL"];
const skip = url === undefined && "HOTWALLET_URL is not set";

function request(name: string): RefundRequest {
  return {
    payment_session_id: `ps_typescript_${name}`,
    network: "local",
    token: "TUSD",
    recipient: "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
    amount: "12.50",
  };
}

/** Returns a `fetch` that sends each request, and loses the first `count` answers. */
function losing(count: number): typeof fetch {
  return async (input, init) => {
    const response = await fetch(input, init);
    if (count-- > 0) throw new TypeError("the answer is lost", { cause: new Error("a test") });
    return response;
  };
}

function open(options: { fetch?: typeof fetch } = {}): HotWallet {
  const token = process.env["TOKEN"] ?? "";
  return new HotWallet(url ?? "", { token, retries: { firstPause: 0.01 }, ...options });
}

test("it pays once, although three answers are lost", { skip }, async () => {
  const client = open({ fetch: losing(3) });
  const created = await client.createRefund(request("lost"));
  const paid = await client.waitUntilFinal(created.id);
  const found = [];
  for await (const refund of client.refunds({ payment_session_id: "ps_typescript_lost" })) found.push(refund.id);
  assert.deepEqual([paid.status, paid.amount, found], ["confirmed", "12.500000", [created.id]]);
  assert.equal((await client.explainRefund(created.id)).refund.status, "confirmed");

  const types: string[] = [];
  for await (const page of client.followEvents()) {
    types.push(...page.events.filter((each) => each.data.id === created.id).map((each) => each.type));
    if (types.includes("refund.confirmed")) break;
  }
  assert.equal(types[0], "refund.accepted");
});

test("an error has its code, and a page that explains it", { skip }, async () => {
  const client = open();
  await assert.rejects(client.createRefund({ ...request("refused"), amount: "1000000" }), (error) => {
    assert(error instanceof ApiError);
    assert.deepEqual([error.code, error.rule], ["policy-violation", "max-amount"]);
    return true;
  });
  const created = await client.createRefund(request("twice"));
  await assert.rejects(client.createRefund(request("twice")), { code: "conflict", refundId: created.id });
  const unknown = new HotWallet(url ?? "", { token: "none" });
  await assert.rejects(unknown.tokens(), { code: "unauthenticated", action: "authenticate" });
});

test("the rest of the API", { skip }, async () => {
  const client = open();
  const [token] = await client.tokens();
  assert.deepEqual((await client.networks()).map((each) => each.network), [token?.network]);
  assert.equal((await client.previewRefund(request("preview"))).outcome, "pay");
  const members = ["1", "1000000"].map((amount) => ({ ...request(amount), amount, idempotency_key: `ts-${amount}` }));
  assert.deepEqual((await client.createRefunds(members)).map((each) => each.status), [201, 422]);
  assert.equal((await client.listEvents("0", { limit: 1, wait: 20 })).events[0]?.type, "refund.accepted");
  assert.ok((await client.webhookKeys()).every((key) => key.startsWith("whpk_")));
  const paid = await client.createRefund(request("cancel"), { wait: 20 });
  await assert.rejects(client.cancelRefund(paid.id), { code: "not-cancellable" });
});
