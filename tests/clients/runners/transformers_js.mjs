// transformers.js: the feature-extraction pipeline, or the graph's own embedding where there is a dense layer.
import { readFileSync, writeFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// Found where npm installed it (CLIENT_MODULES), not beside this file.
const require = createRequire(process.env.CLIENT_MODULES + "/");
const entry = require.resolve("@huggingface/transformers");
const { AutoModel, AutoTokenizer, env, pipeline } = await import(pathToFileURL(entry));
env.allowRemoteModels = false;

async function embed(job, texts) {
  env.localModelPath = dirname(job.folder) + "/";
  const name = basename(job.folder);
  const settings = { dtype: job.file === "model.onnx" ? "fp32" : "q8" };
  if (!job.dense) {
    const extract = await pipeline("feature-extraction", name, settings);
    return (await extract(texts, { pooling: "mean", normalize: true })).tolist();
  }
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  const model = await AutoModel.from_pretrained(name, settings);
  const inputs = await tokenizer(texts, { padding: true, truncation: true });
  return (await model(inputs)).sentence_embedding.tolist();
}

for (const path of process.argv.slice(2)) {
  const job = JSON.parse(readFileSync(path, "utf-8"));
  const query = await embed(job, job.queries.map((text) => job.prompts.query + text));
  const passage = await embed(job, job.passages.map((text) => job.prompts.passage + text));
  writeFileSync(job.output, JSON.stringify({ query, passage, versions: { "transformers.js": env.version } }));
}
