// The AI SDK's streamObject, for record.py: node stream_object.mjs URL QUESTION API prints the object.
import { streamObject } from "ai";
import { modelOf, recipe } from "./recipe.mjs";

const [url, prompt, api] = process.argv.slice(2);
const { object, partialObjectStream } = streamObject({ model: modelOf(url, api), schema: recipe, prompt, maxRetries: 0 });
for await (const _ of partialObjectStream);
console.log(JSON.stringify(await object));
