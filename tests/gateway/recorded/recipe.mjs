// What the AI SDK asks, and whom: record.py's Recipe, by chats or by OpenAI's Responses, the default of its own provider.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { z } from "zod";

export const recipe = z.object({
  title: z.string().max(40),
  minutes: z.number().int().min(1).max(600),
  difficulty: z.enum(["easy", "hard"]),
  steps: z.array(z.string().max(60)).min(1).max(3),
});

const providers = {
  chat: (url) => createOpenAICompatible({ name: "coder", baseURL: url, supportsStructuredOutputs: true }),
  responses: (url) => createOpenAI({ baseURL: url, apiKey: "none" }),
};

export const modelOf = (url, api) => providers[api](url)("qwen2.5-coder");
