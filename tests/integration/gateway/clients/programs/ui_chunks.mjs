// Checks the chunks on stdin, a JSON array, by the AI SDK's own schema. Prints those that fail.

import { text } from "node:stream/consumers";
import { uiMessageChunkSchema } from "ai";

const schema = uiMessageChunkSchema();
const wrong = [];
for (const chunk of JSON.parse(await text(process.stdin))) {
  if (!(await schema.validate(chunk)).success) wrong.push(chunk);
}
console.log(JSON.stringify(wrong));
