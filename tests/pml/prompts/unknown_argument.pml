<!-- unknown_argument.pml:3:3: unknown argument 'days'; module 'budget' has parameters: none -->
<prompt schema="trip">
  <budget days="two"/>
  Go on.
</prompt>
