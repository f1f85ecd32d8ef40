<!-- missing_argument.pml:3:3: missing argument 'days' of module 'plan'; expected days="…" of at most 6 tokens -->
<prompt schema="trip">
  <plan/>
  Go on.
</prompt>
