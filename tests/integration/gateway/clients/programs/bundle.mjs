// Bundles the page of the AI SDK: bundle.mjs USE_DARKQ.js OUTPUT.js

import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const [useDarkq, outfile] = process.argv.slice(2);
await build({
  entryPoints: [fileURLToPath(new URL("ai_page.jsx", import.meta.url))],
  outfile,
  alias: { "use-darkq": useDarkq },
  nodePaths: [fileURLToPath(new URL("../node_modules", import.meta.url))],
  bundle: true,
  format: "esm",
  jsx: "automatic",
  define: { "process.env.NODE_ENV": '"production"' },
  logLevel: "error",
});
