/**
 * Requests stablecoin refunds from hotwallet.
 *
 * `HotWallet` has a method for each operation, and repeats a request until it has an
 * answer. `verifyWebhook` reads the events that the service sends. The types of requests
 * and answers are generated from the OpenAPI document.
 */

export { FINAL, HotWallet, NotFinalError, newIdempotencyKey, type Options } from "./client.js";
export { type Action, ADVICE, ApiError, HotWalletError, UnansweredError } from "./errors.js";
export type * from "./models.js";
export { type Retries } from "./retries.js";
export { verifyWebhook, WebhookError } from "./webhooks.js";
