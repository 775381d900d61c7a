/** Names for the generated types. */

import type { components, operations } from "./schema.js";

type Schemas = components["schemas"];

export type BatchMember = Schemas["BatchMember"];
export type BatchResult = Schemas["BatchResult"];
export type Event = Schemas["Event"];
export type EventList = Schemas["EventList"];
export type Explanation = Schemas["Explanation"];
export type Network = Schemas["Network"];
export type Preview = Schemas["Preview"];
export type Problem = Schemas["Problem"];
export type ProblemCode = Problem["code"];
export type Refund = Schemas["Refund"];
export type RefundRequest = Schemas["RefundRequest"];
export type RefundStatus = Refund["status"];
export type Token = Schemas["Token"];
export type RefundFilter = Pick<
  NonNullable<operations["listRefunds"]["parameters"]["query"]>,
  "payment_session_id" | "status"
>;
