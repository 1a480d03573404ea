// The AI SDK's generateObject, for record.py: node generate_object.mjs URL QUESTION API prints the object.
import { generateObject } from "ai";
import { modelOf, recipe } from "./recipe.mjs";

const [url, prompt, api] = process.argv.slice(2);
const { object } = await generateObject({ model: modelOf(url, api), schema: recipe, prompt, maxRetries: 0 });
console.log(JSON.stringify(object));
