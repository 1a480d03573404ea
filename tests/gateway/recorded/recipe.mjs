// What the AI SDK is asked for: record.py's Recipe.
import { z } from "zod";

export const recipe = z.object({
  title: z.string().max(40),
  minutes: z.number().int().min(1).max(600),
  difficulty: z.enum(["easy", "hard"]),
  steps: z.array(z.string().max(60)).min(1).max(3),
});
