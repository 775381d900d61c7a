/** A response whose body has arrived. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly url: string;
  readonly text: string;
}

/** Reads the body of a response; it may be lost as well. */
export async function readAnswer(response: Response): Promise<Answer> {
  const { status, headers, url } = response;
  return { status, headers, url, text: await response.text() };
}
