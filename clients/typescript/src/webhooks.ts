/** Verifies webhooks: https://www.standardwebhooks.com. */

import { createPublicKey, type KeyObject, verify } from "node:crypto";

import { Webhook } from "standardwebhooks";

import { HotWalletError } from "./errors.js";
import type { Event } from "./models.js";

const TOLERANCE = 300;
const PUBLIC_KEY = "whpk_";
const SECRET = "whsec_";

type Headers_ = Readonly<Record<string, string | string[] | undefined>> | Headers;

interface Signed {
  readonly id: string;
  readonly timestamp: string;
  readonly signatures: string;
}

/** The message is not one of the service, or not a new one: answer 400. */
export class WebhookError extends HotWalletError {}

/**
 * Returns the event of a webhook that one of `keys` has signed.
 *
 * `body` is the body as it was received. `keys` are public keys (`whpk_...`, see
 * `HotWallet.webhookKeys`), secrets (`whsec_...`), or both. `clock` is the time in
 * seconds, which may differ by five minutes; the reference library checks secrets by the
 * clock of the host.
 *
 * @throws WebhookError No key has signed it, it is older than five minutes, or it is no
 *   event.
 * @throws TypeError One of `keys` is none.
 */
export function verifyWebhook(
  body: Uint8Array | string,
  headers: Headers_,
  keys: readonly string[],
  clock: () => number = () => Date.now() / 1000,
): Event {
  const verifiers = keys.map(verifierOf);
  const bytes = Buffer.from(body);
  const given = {
    id: headerOf(headers, "webhook-id"),
    timestamp: headerOf(headers, "webhook-timestamp"),
    signatures: headerOf(headers, "webhook-signature"),
  };
  const { timestamp } = given;
  if (!/^[0-9]{1,13}$/.test(timestamp) || Math.abs(Number(timestamp) - clock()) > TOLERANCE) {
    throw new WebhookError("webhook-timestamp is more than five minutes from now");
  }
  if (!verifiers.some((isValid) => isValid(bytes, given))) {
    throw new WebhookError("no key has signed this message");
  }
  const event = parse(bytes.toString("utf8"));
  if (event?.id !== given.id) {
    throw new WebhookError("the body is not the event that the header names");
  }
  return event;
}

function headerOf(headers: Headers_, name: string): string {
  const found = headers instanceof Headers ? headers.get(name) : headers[name];
  if (typeof found !== "string" || found === "") {
    throw new WebhookError("a header of Standard Webhooks is missing");
  }
  return found;
}

function parse(text: string): Event | undefined {
  try {
    return (JSON.parse(text) as Event | null) ?? undefined;
  } catch {
    return undefined;
  }
}

type Verifier = (body: Buffer, given: Signed) => boolean;

/** Returns the verifier of `key`; the error does not quote it. */
function verifierOf(key: string): Verifier {
  const raw = Buffer.from(key.slice(key.indexOf("_") + 1), "base64");
  if (key.startsWith(PUBLIC_KEY) && raw.length === 32) return ed25519(raw);
  if (key.startsWith(SECRET) && raw.length > 0) return hmac(new Webhook(key));
  throw new TypeError("a key must be whpk_ or whsec_, and Base64");
}

function hmac(webhook: Webhook): Verifier {
  return (body, given) => {
    try {
      webhook.verify(body.toString("utf8"), {
        "webhook-id": given.id,
        "webhook-timestamp": given.timestamp,
        "webhook-signature": given.signatures,
      });
    } catch {
      return false;
    }
    return true;
  };
}

function ed25519(raw: Buffer): Verifier {
  const jwk = { kty: "OKP", crv: "Ed25519", x: raw.toString("base64url") };
  const key: KeyObject = createPublicKey({ key: jwk, format: "jwk" });
  return (body, given) => {
    const message = Buffer.concat([Buffer.from(`${given.id}.${given.timestamp}.`), body]);
    return given.signatures.split(" ").some((each) => {
      const [version, text = ""] = each.split(",", 2);
      return version === "v1a" && verify(null, message, key, Buffer.from(text, "base64"));
    });
  };
}
