<!-- unknown_nested_module.pml:3:20: unknown module 'paris'; module 'plan' has miami, oslo -->
<prompt schema="trip">
  <plan days="two"><paris/></plan>
  Go on.
</prompt>
