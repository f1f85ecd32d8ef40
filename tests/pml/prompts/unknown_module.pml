<!-- unknown_module.pml:3:3: unknown module 'paris'; the schema has plan, budget -->
<prompt schema="trip">
  <paris/>
  Go on.
</prompt>
