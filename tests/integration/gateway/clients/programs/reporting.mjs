// Cases of a program: each is a call that a user of the client makes. One JSON line reports each.

export const REAL = "smollm2"; // llama.cpp, which forces the grammar of a schema
export const THOUGHT = "The user wants a number. It is seven.";

const cases = [];

/** Register a function. `what` is the case's name, and its words in docs/compatibility.md. */
export function testCase(what, run) {
  cases.push([what, run]);
}

/** Run all cases. */
export async function run() {
  for (const [what, run] of cases) {
    let problem = "";
    try {
      await run();
    } catch (error) {
      problem = `${error?.stack ?? error}\n${error?.responseBody ?? ""}`;
    }
    console.log(JSON.stringify({ case: what, problem }));
  }
}
