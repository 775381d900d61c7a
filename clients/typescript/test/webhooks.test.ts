/** Webhooks that the service has signed: the file WEBHOOKS has them, one a line. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { verifyWebhook, WebhookError } from "../src/index.js";

interface Message {
  readonly name: string;
  readonly body: string;
  readonly headers: Record<string, string>;
  readonly keys: string[];
  readonly isValid: boolean;
}

const file = process.env["WEBHOOKS"];
const messages = file === undefined ? [] : (JSON.parse(readFileSync(file, "utf8")) as Message[]);

for (const { name, body, headers, keys, isValid } of messages) {
  test(`${isValid ? "accepts" : "refuses"} ${name}`, () => {
    for (const form of [headers, new Headers(headers)]) {
      if (isValid) assert.deepEqual(verifyWebhook(Buffer.from(body), form, keys), JSON.parse(body));
      else assert.throws(() => verifyWebhook(body, form, keys), WebhookError);
    }
  });
}

test("a message is of no use after five minutes", () => {
  const message = messages.find((each) => each.isValid);
  if (message === undefined) return;
  const { body, headers, keys } = message;
  const at = Number(headers["webhook-timestamp"]);
  assert.throws(() => verifyWebhook(body, headers, keys, () => at + 301), /five minutes/);
  assert.throws(() => verifyWebhook(body, headers, keys, () => at - 301), /five minutes/);
});

test("an error does not quote a key", () => {
  for (const key of ["", "whpk_", "whpk_AAAA", "whsec_"]) {
    assert.throws(() => verifyWebhook("{}", {}, [key]), { message: "a key must be whpk_ or whsec_, and Base64" });
  }
});
