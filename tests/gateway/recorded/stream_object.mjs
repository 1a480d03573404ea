// The AI SDK's streamObject, for record.py: node stream_object.mjs URL QUESTION prints the object.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { streamObject } from "ai";
import { recipe } from "./recipe.mjs";

const [url, prompt] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "coder", baseURL: url, supportsStructuredOutputs: true });
const { object, partialObjectStream } = streamObject({ model: provider("qwen2.5-coder"), schema: recipe, prompt, maxRetries: 0 });
for await (const _ of partialObjectStream);
console.log(JSON.stringify(await object));
