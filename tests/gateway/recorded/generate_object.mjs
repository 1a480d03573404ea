// The AI SDK's generateObject, for record.py: node generate_object.mjs URL QUESTION prints the object.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject } from "ai";
import { recipe } from "./recipe.mjs";

const [url, prompt] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "coder", baseURL: url, supportsStructuredOutputs: true });
const { object } = await generateObject({ model: provider("qwen2.5-coder"), schema: recipe, prompt, maxRetries: 0 });
console.log(JSON.stringify(object));
