<!-- argument_too_long.pml:3:3: argument 'days' has 8 tokens; expected at most 6 -->
<prompt schema="trip">
  <plan days="as many as there are in a year"/>
  Go on.
</prompt>
