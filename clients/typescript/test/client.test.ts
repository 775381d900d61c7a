/** What the client repeats, and what it throws. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { ApiError, type BatchMember, HotWallet, NotFinalError, type RefundRequest, UnansweredError } from "../src/index.js";
import { LOST, problem, type Reply, withReplies } from "./scripted.js";

const REQUEST: RefundRequest = {
  payment_session_id: "ps_1",
  network: "local",
  token: "TUSD",
  recipient: "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
  amount: "12.50",
};
const QUEUED = { id: "rf_1", status: "queued" };
const PAID = { id: "rf_1", status: "confirmed" };

const ok = (body: unknown, headers: Record<string, string> = {}): Reply => ({ status: 200, body, headers });

test("a lost answer is asked for again, with the same bytes and key", () =>
  withReplies([LOST, LOST, LOST, ok(QUEUED)], async ({ client, seen, pauses }) => {
    assert.deepEqual(await client.createRefund(REQUEST), QUEUED);
    assert.equal(new Set(seen.map((each) => `${each.body} ${each.headers["idempotency-key"]}`)).size, 1);
    assert.deepEqual(JSON.parse(seen[0]!.body), REQUEST);
    assert.deepEqual(pauses, [0.25, 0.5, 1]);
  }));

test("the caller may choose the key", () =>
  withReplies([ok(QUEUED), ok(QUEUED)], async ({ client, seen }) => {
    await client.createRefund(REQUEST, { idempotencyKey: "mine", wait: 10 });
    await client.createRefund(REQUEST);
    assert.equal(seen[0]!.headers["idempotency-key"], "mine");
    assert.equal(seen[0]!.headers["prefer"], "wait=10");
    assert.match(String(seen[1]!.headers["idempotency-key"]), /^[0-9a-f-]{36}$/);
    assert.equal(seen[1]!.headers["prefer"], undefined);
  }));

for (const [reply, pause] of [
  [problem(429, "too-many-requests", 7), 7.25],
  [problem(503, "store-unavailable", 5), 5.25],
  [problem(408, "request-timeout"), 0.25],
  [problem(500, "internal-error"), 0.25],
  [{ status: 502, body: "of a proxy" }, 0.25],
  [{ status: 504, headers: { "Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT" } }, 0.25],
] as [Reply, number][]) {
  test(`${reply.status} is repeated after ${pause} s`, () =>
    withReplies([reply, ok(QUEUED)], async ({ client, pauses }) => {
      assert.deepEqual(await client.createRefund(REQUEST), QUEUED);
      assert.deepEqual(pauses, [pause]);
    }));
}

for (const [status, code, action] of [
  [400, "invalid-input", "correct"],
  [401, "unauthenticated", "authenticate"],
  [403, "tenant-blocked", "ask-operator"],
  [409, "conflict", "look-up"],
  [409, "idempotency-mismatch", "correct"],
  [410, "cursor-expired", "look-up"],
  [421, "not-through-proxy", "ask-operator"],
  [422, "policy-violation", "correct"],
  [501, "unsupported-transfer-coding", "correct"],
  [302, "http-302", "correct"],
] as const) {
  test(`${status} ${code} is thrown at once`, () =>
    withReplies(Array(2).fill(problem(status, code)), async ({ client, url }) => {
      // `fetch` itself repeats after 421.
      await assert.rejects(client.createRefund(REQUEST), (error) => {
        assert(error instanceof ApiError);
        assert.deepEqual([error.status, error.code, error.action, error.name], [status, code, action, "ApiError"]);
        assert.deepEqual([error.detail, error.requestId], ["because", "req_1"]);
        assert.equal(error.url, `${url}/problems/${code}`);
        assert.ok(error.message.startsWith(`${code}: because (req_1). `));
        return true;
      });
    }));
}

test("an answer need not be a problem document", () =>
  withReplies([{ status: 404, body: ["a", "list"] }], async ({ client, seen }) => {
    await assert.rejects(client.getRefund("../keys"), { message: /^http-404\. Correct the request/ });
    assert.equal(seen[0]!.path, "/v1/refunds/..%2Fkeys");
  }));

test("there is one deadline", () => {
  const late = problem(503, "store-unavailable", 30);
  return withReplies([late, late, late], async ({ client, pauses }) => {
    await assert.rejects(client.createRefund(REQUEST, { idempotencyKey: "mine" }), (error) => {
      assert(error instanceof UnansweredError);
      assert.equal(error.idempotencyKey, "mine");
      assert(error.cause instanceof ApiError);
      assert.equal(error.cause.action, "repeat");
      assert.match(error.message, /store-unavailable.*"mine"/);
      return true;
    });
    assert.deepEqual(pauses, [30.25]);
  });
});

test("one attempt has a time limit", () => {
  const hanging: typeof fetch = (_, init) =>
    new Promise((_done, fail) => init?.signal?.addEventListener("abort", () => fail(init.signal?.reason)));
  return withReplies(
    [],
    async ({ client }) => {
      await assert.rejects(client.tokens(), { name: "UnansweredError", message: /timeout/ });
    },
    { fetch: hanging, timeout: 0.01, retries: { deadline: 1 } },
  );
});

test("a token is asked for each attempt, and its errors are the caller's", () => {
  const tokens = ["two", "one"];
  const token = (): string => {
    const next = tokens.pop();
    if (next === undefined) throw new RangeError("no token");
    return next;
  };
  return withReplies(
    [LOST, ok(QUEUED)],
    async ({ client, seen }) => {
      await client.getRefund("rf_1");
      assert.deepEqual(seen.map((each) => each.headers.authorization), ["Bearer one", "Bearer two"]);
      await assert.rejects(client.getRefund("rf_1"), RangeError);
    },
    { token },
  );
});

test("an invalid request is not sent", () =>
  withReplies([], async ({ client, seen, pauses }) => {
    await assert.rejects(client.createRefund(REQUEST, { idempotencyKey: "two\nlines" }), TypeError);
    assert.deepEqual([seen, pauses], [[], []]);
    assert.throws(() => new HotWallet("ftp://host", { token: "t" }), /baseUrl/);
  }));

test("waiting for the end", () =>
  withReplies(
    [ok(QUEUED, { "Preference-Applied": "wait=20" }), ok(QUEUED), ok(PAID)],
    async ({ client, seen, pauses }) => {
      assert.deepEqual(await client.waitUntilFinal("rf_1"), PAID);
      assert.deepEqual(seen.map((each) => each.headers["prefer"]), Array(3).fill("wait=20"));
      assert.deepEqual(pauses, [3]);
    },
  ));

test("waiting ends", () =>
  withReplies([ok(QUEUED), ok(QUEUED), ok(QUEUED)], async ({ client }) => {
    await assert.rejects(client.waitUntilFinal("rf_1", { timeout: 5 }), (error) => {
      assert(error instanceof NotFinalError);
      assert.deepEqual(error.refund, QUEUED);
      return true;
    });
  }));

test("members of a batch with a temporary error are repeated", () => {
  const member = (key: string): BatchMember => ({ ...REQUEST, idempotency_key: key });
  const done = { idempotency_key: "a", status: 201, refund: QUEUED };
  const late = { idempotency_key: "b", status: 429, retry_after: 9 };
  const wrong = { idempotency_key: "c", status: 422 };
  const now = { idempotency_key: "b", status: 201, refund: QUEUED };
  return withReplies(
    [ok({ results: [done, late, wrong] }), ok({ results: [now] }), ok({ results: [{ ...late, retry_after: 90 }] })],
    async ({ client, seen, pauses }) => {
      assert.deepEqual(await client.createRefunds(["a", "b", "c"].map(member)), [done, now, wrong]);
      assert.deepEqual(JSON.parse(seen[1]!.body), { refunds: [member("b")] });
      assert.deepEqual(pauses, [9.25]);
      assert.equal((await client.createRefunds([member("b")]))[0]?.status, 429);
      assert.deepEqual(await client.createRefunds([]), []);
    },
  );
});

test("pages of refunds", () =>
  withReplies(
    [ok({ refunds: [QUEUED], next_cursor: "rf_9" }), ok({ refunds: [PAID], next_cursor: null })],
    async ({ client, seen }) => {
      const found = [];
      for await (const refund of client.refunds({ status: "queued" })) found.push(refund);
      assert.deepEqual(found, [QUEUED, PAID]);
      assert.deepEqual(seen.map((each) => each.path), [
        "/v1/refunds?status=queued&limit=200",
        "/v1/refunds?status=queued&limit=200&cursor=rf_9",
      ]);
    },
  ));

test("following events", () => {
  const empty = { events: [], next_cursor: "5" };
  const page = { events: [{ id: "evt_1" }], next_cursor: "7" };
  return withReplies(
    [ok(empty, { "Preference-Applied": "wait=20" }), ok(empty), ok(page)],
    async ({ client, seen, pauses }) => {
      assert.deepEqual((await client.followEvents("3").next()).value, page);
      assert.deepEqual(seen.map((each) => each.path), ["3", "5", "5"].map((at) => `/v1/events?after=${at}&limit=50`));
      assert.deepEqual(pauses, [3]);
    },
  );
});
