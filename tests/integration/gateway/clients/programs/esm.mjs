// Makes ES modules of npm's packages, as a CDN does: esm.mjs FOLDER NAME=PACKAGE…

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const [outdir, ...packages] = process.argv.slice(2);
const require = createRequire(import.meta.url);

// What a module of CommonJS exports is known only when it has run.
const exporting = (name) => {
  const names = Object.keys(require(name)).filter((each) => each !== "default");
  return `import all from "${name}"; export default all; export const { ${names} } = all;`;
};
await build({
  entryPoints: packages.map((each) => each.split("=")).map(([out, name]) => ({ out, in: `esm:${name}` })),
  plugins: [
    {
      name: "esm",
      setup({ onResolve, onLoad }) {
        onResolve({ filter: /^esm:/ }, ({ path }) => ({ path: path.slice(4), namespace: "esm" }));
        onLoad({ filter: /.*/, namespace: "esm" }, ({ path }) => ({
          contents: exporting(path),
          resolveDir: fileURLToPath(new URL(".", import.meta.url)),
        }));
      },
    },
  ],
  outdir,
  bundle: true,
  splitting: true,
  format: "esm",
  define: { "process.env.NODE_ENV": '"production"' },
  logLevel: "error",
});
