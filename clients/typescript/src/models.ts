/** Names for the generated types. */

import type { components, operations } from "./schema.js";

type Schemas = components["schemas"];

export type BatchMember = Schemas["BatchMember"];
export type BatchResult = Schemas["BatchResults"]["results"][number];
export type Event = Schemas["EventList"]["events"][number];
export type EventList = Schemas["EventList"];
export type Explanation = Schemas["Explanation"];
export type Network = Schemas["NetworkList"]["networks"][number];
export type Preview = Schemas["Preview"];
export type Problem = Schemas["Problem"];
export type ProblemCode = Problem["code"];
export type Refund = Schemas["Refund"];
export type RefundRequest = Schemas["RefundRequest"];
export type RefundStatus = Refund["status"];
export type Token = Schemas["TokenList"]["tokens"][number];
export type RefundFilter = Pick<
  NonNullable<operations["listRefunds"]["parameters"]["query"]>,
  "payment_session_id" | "status"
>;
